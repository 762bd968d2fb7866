"""The options that commands share: times in UTC, the output folder."""

from pathlib import Path

import pytest

from deployments.cli.options import day_before, iso, make_folder, minute, time_after
from deployments.errors import SetupError

NOW = 1_900_000_000.0  # 2030-03-17 17:46:40 UTC


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", NOW + 90),
        ("5m", NOW + 300),
        ("12h", NOW + 43_200),
        ("30d", NOW + 2_592_000),
        ("2w", NOW + 1_209_600),
        ("2030-03-18", 1_900_022_400.0),
        ("2030-03-17T17:46:41+00:00", NOW + 1),
        ("2030-03-17T19:46:41+02:00", NOW + 1),
    ],
)
def test_a_later_moment(text: str, expected: float) -> None:
    """A span counts from now; a date begins at midnight in UTC."""
    assert expected == time_after(NOW, text)


@pytest.mark.parametrize("text", ["0d", "2030-03-17", "2001-01-01"])
def test_a_moment_that_is_over_is_refused(text: str) -> None:
    """The line says how to give a later one."""
    with pytest.raises(SetupError, match=f"{text} is in the past"):
        time_after(NOW, text)


@pytest.mark.parametrize("text", ["", "d", "1y", "-3d", "1.5d", "2030-02-30", "9999999d", "٣d"])
def test_nonsense_is_refused(text: str) -> None:
    """Both kinds of moment name what can be written."""
    for read in (time_after, day_before):
        with pytest.raises(SetupError, match="is no time: write YYYY-MM-DD"):
            read(NOW, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7d", "2030-03-10"),
        ("24h", "2030-03-16"),
        ("2029-12-31", "2029-12-31"),
        ("2w", "2030-03-03"),
    ],
)
def test_an_earlier_day(text: str, expected: str) -> None:
    """A span counts back from now."""
    assert expected == day_before(NOW, text)


def test_the_first_day_is_that_of_the_epoch() -> None:
    """A long span means everything."""
    assert day_before(NOW, "99999w") == "1970-01-01"


def test_moments_are_shown_in_utc() -> None:
    """To the minute for people, exactly for programs."""
    assert (minute(NOW), minute(None)) == ("2030-03-17 17:46", "–")
    assert (iso(NOW), iso(None)) == ("2030-03-17T17:46:40+00:00", None)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """One line says which option to use."""
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="choose another --out"):
        make_folder(tmp_path / "file")
