"""The file store: names, expiry, and what a crash leaves."""

import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.errors import SetupError
from deployments.images import storage
from deployments.images.storage import FileStore, LocalFileStore, StoredFile
from deployments.settings import FileSettings

EXPIRES_S = 100.0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of the store, which does not exist yet."""
    return tmp_path / "state" / "files"


@pytest.fixture
def store(root: Path) -> LocalFileStore:
    """A store."""
    return LocalFileStore(FileSettings(root=str(root), expires_s=EXPIRES_S))


def age(path: Path, seconds: float) -> None:
    """Make `path` older."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def files_in(root: Path) -> list[str]:
    """The names of all files, temporary ones too."""
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_what_is_put_is_found(store: LocalFileStore) -> None:
    """A file comes back with its bytes, its type, its size and its time."""
    before = time.time()
    put = store.put(b"0123456789", "image/jpeg")

    assert store.find(put.name) == put
    assert (put.content_type, put.size) == ("image/jpeg", 10)
    assert before + EXPIRES_S - 1 <= put.expires_at <= time.time() + EXPIRES_S
    assert store.read(put, 0, 100) == b"0123456789"


@pytest.mark.parametrize(
    ("start", "size", "expected"), [(0, 3, b"012"), (4, 2, b"45"), (8, 9, b"89"), (10, 1, b"")]
)
def test_parts_are_read(store: LocalFileStore, start: int, size: int, expected: bytes) -> None:
    """A range is read without the rest; beyond the end there is nothing."""
    file = store.put(b"0123456789", "image/png")

    assert store.read(file, start, size) == expected


def test_names_cannot_be_guessed(store: LocalFileStore) -> None:
    """Names have 128 random bits, and the same bytes get another name each time."""
    names = {store.put(b"same", "image/png").name for _ in range(20)}

    assert len(names) == 20
    assert all(storage.NAME.fullmatch(name) for name in names)


@pytest.mark.parametrize(
    ("content_type", "suffix", "kept"),
    [
        ("image/jpeg", ".jpg", "image/jpeg"),
        ("image/png", ".png", "image/png"),
        ("image/webp", ".webp", "image/webp"),
        ("text/html", ".bin", "application/octet-stream"),
        ("image/svg+xml", ".bin", "application/octet-stream"),
        ("../../x", ".bin", "application/octet-stream"),
    ],
)
def test_type_is_kept_in_the_name(
    store: LocalFileStore, content_type: str, suffix: str, kept: str
) -> None:
    """A known type becomes the suffix; any other is opaque bytes from then on."""
    file = store.put(b"x", content_type)

    assert file.path.suffix == suffix
    assert file.content_type == kept


def test_stores_share_a_folder(root: Path, store: LocalFileStore) -> None:
    """What one process puts, another finds."""
    other: FileStore = LocalFileStore(FileSettings(root=str(root), expires_s=EXPIRES_S))
    file = store.put(b"x", "image/png")

    assert other.find(file.name) == file


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../secret",
        "../../secret.png",
        "/etc/passwd",
        "a" * 32,
        "a" * 32 + ".exe",
        "a" * 31 + "/.png",
        "A" * 32 + ".png",
        "a" * 32 + ".png\n",
        "a" * 32 + ".png\0",
        "." + "a" * 32 + ".png.tmp",
        "٣" * 32 + ".png",
    ],
)
def test_malformed_names_are_unknown(store: LocalFileStore, name: str) -> None:
    """A name that the store would not give is never looked for."""
    assert store.find(name) is None


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text() | st.from_regex(storage.NAME, fullmatch=True))
def test_no_name_leaves_the_root(root: Path, store: LocalFileStore, name: str) -> None:
    """Whatever the name, only what is under the root is ever looked at."""
    file = store.find(name)

    assert file is None
    if storage.NAME.fullmatch(name):
        assert store._path(name).resolve().is_relative_to(root.resolve())


def test_expired_files_are_unknown(store: LocalFileStore) -> None:
    """A file is found until its time is over, also while it is still on the disk."""
    file = store.put(b"x", "image/png")
    age(file.path, EXPIRES_S - 5)
    assert store.find(file.name) is not None

    age(file.path, EXPIRES_S)
    assert store.find(file.name) is None
    assert file.path.exists()


def test_prune_removes_the_expired_only(root: Path, store: LocalFileStore) -> None:
    """Pruning removes what is over, counts it, and leaves the rest."""
    old = [store.put(b"x", "image/png") for _ in range(3)]
    young = store.put(b"x", "image/png")
    for file in old:
        age(file.path, EXPIRES_S + 1)

    assert store.prune() == 3
    assert files_in(root) == [young.name]
    assert store.prune() == 0


def test_prune_leaves_what_is_not_ours(root: Path, store: LocalFileStore) -> None:
    """A folder that was named by mistake is not emptied."""
    foreign = [root / "notes.txt", root / "ab" / "photo.jpg", root / "ab" / ".hidden.tmp"]
    (root / "ab").mkdir(parents=True)
    for path in foreign:
        path.write_bytes(b"x")
        age(path, 1e6)

    assert store.prune() == 0
    assert all(path.exists() for path in foreign)


def test_prune_before_anything_was_put(root: Path, store: LocalFileStore) -> None:
    """A store without a folder has nothing to prune, and creates none."""
    assert store.prune() == 0
    assert not root.exists()


def test_prune_survives_another_pruner(
    store: LocalFileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that another process removes first is no error, and is not counted."""
    file = store.put(b"x", "image/png")
    age(file.path, EXPIRES_S + 1)
    modified_at = storage.modified_at

    def and_lose(path: Path, default: float) -> float:
        when = modified_at(path, default)
        path.unlink()
        return when

    monkeypatch.setattr(storage, "modified_at", and_lose)
    assert store.prune() == 0


def test_age_of_a_vanished_file(tmp_path: Path) -> None:
    """A file that is gone counts as new, so that nobody tries to remove it."""
    assert storage.modified_at(tmp_path / "gone", 7.0) == 7.0


def test_reading_a_pruned_file(store: LocalFileStore) -> None:
    """A file that is gone since it was found is FileNotFoundError."""
    file = store.put(b"x", "image/png")
    file.path.unlink()

    with pytest.raises(FileNotFoundError):
        store.read(file, 0, 1)


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_failed_write_leaves_nothing(
    root: Path, store: LocalFileStore, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """A write that fails half-way leaves neither a file nor its temporary."""

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    store.put(b"x", "image/png")
    before = files_in(root)
    monkeypatch.setattr(*((os, "fsync", fail) if broken == "fsync" else (Path, "replace", fail)))

    with pytest.raises(SetupError, match="No space left"):
        store.put(b"y", "image/png")
    assert files_in(root) == before


def test_crash_within_a_write_is_cleaned_up(
    root: Path, store: LocalFileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed writer leaves is never served, and goes when it is surely dead."""
    orphan = abandoned(store, monkeypatch)

    assert store.find(orphan.name) is None
    assert store.find(orphan.name[1:].removesuffix(".tmp")) is None
    age(orphan, storage.TEMPORARY_S - 5)
    assert store.prune() == 0
    age(orphan, storage.TEMPORARY_S)
    assert store.prune() == 1
    assert files_in(root) == []


def abandoned(store: LocalFileStore, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary file of a writer that was killed before it renamed it."""
    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", lambda *args: exec_killed())
        killed.setattr(Path, "unlink", lambda *args, **kwargs: None)
        with pytest.raises(KeyboardInterrupt):
            store.put(b"half", "image/png")
    (orphan,) = store._root.rglob(".*.tmp")
    return orphan


def exec_killed() -> None:
    """Die."""
    raise KeyboardInterrupt


def test_data_is_durable_before_it_is_named(
    store: LocalFileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are on the disk before the name is, and the name before `put` returns."""
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(path, target)

    store.put(b"x", "image/png")
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    store.put(b"x", "image/png")

    assert steps[-3:] == ["file", "rename", "folder"]


def test_root_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    """The operator reads which setting is wrong, and why."""
    (tmp_path / "file").write_bytes(b"")
    root = tmp_path / "file" / "below"
    store = LocalFileStore(FileSettings(root=str(root)))

    with pytest.raises(SetupError, match=r"^setting files\.root: .*/below cannot be written: Not"):
        store.put(b"x", "image/png")
    assert store.find("0" * 32 + ".png") is None
    assert store.prune() == 0


def test_stored_files_are_plain_values(tmp_path: Path) -> None:
    """A StoredFile can be compared and cannot be changed."""
    file = StoredFile("n", tmp_path, "image/png", 1, 2.0)

    with pytest.raises(AttributeError):
        file.name = "m"  # type: ignore[misc]
