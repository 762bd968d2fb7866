"""The cache is bounded, evicts the least recently used value, and reports its size."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from deployments.florence.image_cache import ImageCache


@dataclass(frozen=True)
class Value:
    """Something of a size."""

    nbytes: int


def test_what_was_put_is_found() -> None:
    """Nothing else is."""
    cache: ImageCache[Value] = ImageCache(100)
    cache.put("a", Value(10))
    assert cache.get("a") == Value(10)
    assert cache.get("b") is None


def test_the_one_not_used_for_longest_goes_first() -> None:
    """Being asked for counts as use."""
    cache: ImageCache[Value] = ImageCache(20)
    for key in "ab":
        cache.put(key, Value(10))
    cache.get("a")
    cache.put("c", Value(10))
    assert [cache.get(key) is not None for key in "abc"] == [True, False, True]


def test_what_is_larger_than_all_is_not_kept() -> None:
    """One huge value does not drive out the others."""
    cache: ImageCache[Value] = ImageCache(20)
    cache.put("a", Value(10))
    cache.put("b", Value(21))
    assert cache.get("a")
    assert not cache.get("b")


def test_without_a_key_nothing_is_kept() -> None:
    """An image without a key is not cached."""
    cache: ImageCache[Value] = ImageCache(20)
    cache.put(None, Value(10))
    assert cache.get(None) is None
    assert cache.num_bytes == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40))))
def test_it_never_holds_more_than_it_may(puts: list[tuple[int, int]]) -> None:
    """Whatever is put, also under the same key again, the sum is right and bounded."""
    cache: ImageCache[Value] = ImageCache(60)
    for key, size in puts:
        cache.put(key, Value(size))
        held = [value.nbytes for k in range(6) if (value := cache.get(k))]
        assert cache.num_bytes == sum(held) <= 60
