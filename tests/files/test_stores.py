"""The file stores: one contract for all of them, and what each does when its ground fails."""

import math
import os
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import from_url

from deployments.errors import SetupError, StoreUnavailable
from deployments.files import base as storage
from deployments.files import local
from deployments.files.base import FileStore, StoredFile, new_name
from deployments.files.local import LocalFileStore
from deployments.files.object_store import ObjectFileStore
from deployments.files.open import open_file_store
from deployments.settings import FileSettings

EXPIRES_S = 100.0
MALFORMED = [
    "",
    ".",
    "..",
    "../secret",
    "../../secret.png",
    "/etc/passwd",
    "a" * 32,
    "a" * 32 + ".png",
    "a" * 32 + "-ffffffffff",
    "a" * 32 + "-ffffffffff.exe",
    "a" * 32 + "-fffffffff.png",
    "a" * 31 + "/-ffffffffff.png",
    "A" * 32 + "-ffffffffff.png",
    "a" * 32 + "-FFFFFFFFFF.png",
    "a" * 32 + "-ffffffffff.png\n",
    "a" * 32 + "-ffffffffff.png\0",
    "." + "a" * 32 + "-ffffffffff.png.tmp",
    "٣" * 32 + "-ffffffffff.png",
]

Open = Callable[[], FileStore]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of the local store, which does not exist yet."""
    return tmp_path / "state" / "files"


@pytest.fixture
def folder(root: Path) -> LocalFileStore:
    """A store in a folder."""
    return LocalFileStore(FileSettings(root=str(root), expires_s=EXPIRES_S))


@pytest.fixture
def objects_in(bucket: str) -> ObjectFileStore:
    """A store in a bucket, below a prefix."""
    return ObjectFileStore(FileSettings(root=f"s3://{bucket}/some/where", expires_s=EXPIRES_S))


@pytest.fixture(params=["local", "s3"])
def open_again(request: pytest.FixtureRequest) -> Open:
    """Opens the same store as often as one likes, as several processes do."""
    if request.param == "local":
        address = str(request.getfixturevalue("root"))
    else:
        address = f"s3://{request.getfixturevalue('bucket')}/some/where"
    return lambda: open_file_store(FileSettings(root=address, expires_s=EXPIRES_S))


@pytest.fixture
def store(open_again: Open) -> FileStore:
    """A store of either kind."""
    return open_again()


def age(path: Path, seconds: float) -> None:
    """Make `path` older."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def files_in(root: Path) -> list[str]:
    """The names of all files, temporary ones too."""
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_what_is_put_is_found(store: FileStore) -> None:
    """A file comes back with its bytes, its type, its size and its time."""
    before = time.time()
    put = store.put(b"0123456789", "image/jpeg")

    assert store.find(put.name) == put
    assert (put.content_type, put.size) == ("image/jpeg", 10)
    assert before + EXPIRES_S <= put.expires_at <= time.time() + EXPIRES_S + 1
    assert store.read(put, 0, 100) == b"0123456789"


@pytest.mark.parametrize(
    ("start", "size", "expected"), [(0, 3, b"012"), (4, 2, b"45"), (8, 9, b"89"), (10, 1, b"")]
)
def test_parts_are_read(store: FileStore, start: int, size: int, expected: bytes) -> None:
    """A range is read without the rest; beyond the end there is nothing."""
    file = store.put(b"0123456789", "image/png")

    assert store.read(file, start, size) == expected


def test_empty_files_are_kept(store: FileStore) -> None:
    """A file of no bytes is a file."""
    file = store.put(b"", "image/png")

    assert store.find(file.name) == StoredFile(file.name, 0)
    assert store.read(file, 0, 5) == b""


@pytest.mark.parametrize(("ttl_s", "expected_s"), [(None, EXPIRES_S), (7.0, 7.0), (1e9, 1e9)])
def test_a_file_lives_as_long_as_is_wished(
    store: FileStore, ttl_s: float | None, expected_s: float
) -> None:
    """Without a wish the settings say how long."""
    file = store.put(b"x", "image/png", ttl_s)

    assert expected_s - 1 <= file.expires_at - time.time() <= expected_s + 1


@pytest.mark.parametrize("ttl_s", [math.inf, 1e15])
def test_a_file_may_live_for_ever(store: FileStore, ttl_s: float) -> None:
    """What is wanted for ever is never over."""
    file = store.put(b"x", "image/png", ttl_s)

    assert file.expires_at == math.inf
    assert store.find(file.name) == file
    assert store.prune() == 0


def test_names_cannot_be_guessed(store: FileStore) -> None:
    """Names have 128 random bits, and the same bytes get another name each time."""
    names = {store.put(b"same", "image/png").name for _ in range(20)}

    assert len({name[:32] for name in names}) == 20
    assert all(storage.NAME.fullmatch(name) for name in names)


@pytest.mark.parametrize(
    ("content_type", "suffix", "kept"),
    [
        *(
            (content_type, suffix, content_type)
            for content_type, suffix in storage.SUFFIXES.items()
        ),
        ("text/html", ".bin", "application/octet-stream"),
        ("image/svg+xml", ".bin", "application/octet-stream"),
        ("../../x", ".bin", "application/octet-stream"),
    ],
)
def test_type_is_kept_in_the_name(content_type: str, suffix: str, kept: str) -> None:
    """A known type becomes the suffix; any other is opaque bytes from then on."""
    name = new_name(content_type, 1.0)

    assert name.endswith(suffix)
    assert StoredFile(name, 0).content_type == kept


def test_stores_share_their_files(open_again: Open) -> None:
    """What one process puts, another finds."""
    file = open_again().put(b"x", "image/png")

    assert open_again().find(file.name) == file


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_names_are_unknown(store: FileStore, name: str) -> None:
    """A name that the store would not give is neither found nor removed."""
    assert store.find(name) is None
    store.remove(name)


def test_a_name_is_created_once(store: FileStore) -> None:
    """A pending name takes its file piece by piece, and never another one."""
    name = new_name("image/png", 60.0)
    file = store.create(name, iter([b"01", b"", b"234"]))

    assert file == StoredFile(name, 5)
    with pytest.raises(FileExistsError):
        store.create(name, [b"other"])
    assert store.read(file, 0, 9) == b"01234"


def test_a_file_is_kept_under_a_name_of_its_own(store: FileStore) -> None:
    """A name that was made before takes a whole file."""
    name = new_name("image/jpeg", 60.0)
    file = store.keep(name, b"01234")

    assert file == store.find(name) == StoredFile(name, 5)
    assert store.read(file, 0, 9) == b"01234"


def test_one_of_many_creators_wins(store: FileStore) -> None:
    """However many create one name at once, exactly one does, and the file is its."""
    name = new_name("image/png", 60.0)

    def create(number: int) -> int | None:
        try:
            store.create(name, [bytes([number]) * 1000])
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(8) as threads:
        winners = [number for number in threads.map(create, range(8)) if number is not None]

    [winner] = winners
    file = store.find(name)
    assert file
    assert store.read(file, 0, 2000) == bytes([winner]) * 1000


def test_pieces_that_fail_leave_nothing(store: FileStore) -> None:
    """What the pieces raise is raised, and the name is free again."""
    name = new_name("image/png", 60.0)

    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        store.create(name, pieces())
    assert store.find(name) is None
    assert store.create(name, [b"whole"]).size == 5


def test_expired_files_are_unknown(store: FileStore) -> None:
    """A file is not found when its time is over, also while it is still there."""
    file = store.put(b"x", "image/png", -1.0)

    assert store.find(file.name) is None
    assert store.read(file, 0, 1) == b"x"


def test_prune_removes_the_expired_only(store: FileStore) -> None:
    """Pruning removes what is over, counts it, and leaves the rest."""
    old = [store.put(b"x", "image/png", -seconds) for seconds in (1.0, 50.0, 1e6)]
    young = [store.put(b"x", "image/png"), store.put(b"x", "image/png", math.inf)]

    assert store.prune() == 3
    assert all(store.find(file.name) == file for file in young)
    for file in old:
        with pytest.raises(FileNotFoundError):
            store.read(file, 0, 1)
    assert store.prune() == 0


def test_removed_files_are_unknown(store: FileStore) -> None:
    """A file can be removed before its time; once more is no error."""
    file, other = store.put(b"x", "image/png"), store.put(b"y", "image/png")
    store.remove(file.name)
    store.remove(file.name)

    assert store.find(file.name) is None
    assert store.find(other.name) == other


def test_reading_a_removed_file(store: FileStore) -> None:
    """A file that is gone since it was found is FileNotFoundError."""
    file = store.put(b"x", "image/png")
    store.remove(file.name)

    with pytest.raises(FileNotFoundError):
        store.read(file, 0, 1)


def test_stored_files_are_plain_values() -> None:
    """A StoredFile can be compared and cannot be changed."""
    file = StoredFile("n", 1)

    assert file == StoredFile("n", 1)
    with pytest.raises(AttributeError):
        file.name = "m"  # type: ignore[misc]


@pytest.mark.parametrize("root", ["ftp://host/files", "s3x://b", "http://host/files", "://x"])
def test_an_unknown_kind_of_store_is_explained(root: str) -> None:
    """A URL that no store stands behind names those that there are."""
    with pytest.raises(SetupError, match=r"files\.root: .* one of s3://, gs://, az://$"):
        open_file_store(FileSettings(root=root))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text() | st.from_regex(storage.NAME, fullmatch=True))
def test_no_name_leaves_the_folder(root: Path, folder: LocalFileStore, name: str) -> None:
    """Whatever the name, only files under the root are read."""
    assert folder.find(name) is None
    if storage.NAME.fullmatch(name):
        assert folder.path(name).resolve().is_relative_to(root.resolve())


def test_a_folder_keeps_what_is_not_ours(root: Path, folder: LocalFileStore) -> None:
    """A folder that was named by mistake is not emptied."""
    foreign = [root / "notes.txt", root / "ab" / "photo.jpg", root / "ab" / ".hidden.tmp"]
    (root / "ab").mkdir(parents=True)
    for path in foreign:
        path.write_bytes(b"x")
        age(path, 1e6)

    assert folder.prune() == 0
    assert all(path.exists() for path in foreign)


def test_prune_before_anything_was_put(root: Path, folder: LocalFileStore) -> None:
    """A store without a folder has nothing to prune, and creates none."""
    assert folder.prune() == 0
    assert not root.exists()


def test_age_of_a_vanished_file(tmp_path: Path) -> None:
    """A file that is gone counts as new, so no process tries to remove it."""
    assert local.modified_at(tmp_path / "gone", 7.0) == 7.0


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_failed_write_leaves_nothing(
    root: Path,
    folder: LocalFileStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    """A write that fails half-way leaves neither a file nor its temporary; the log says why."""

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    folder.put(b"x", "image/png")
    before = files_in(root)
    monkeypatch.setattr(*((os, "fsync", fail) if broken == "fsync" else (Path, "replace", fail)))

    with pytest.raises(StoreUnavailable):
        folder.put(b"y", "image/png")
    assert files_in(root) == before
    assert "No space left on device" in caplog.text


def test_crash_within_a_write_is_cleaned_up(
    root: Path, folder: LocalFileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed writer leaves is never served, and goes when it is surely dead."""
    orphan = abandoned(root, folder, monkeypatch)

    assert folder.find(orphan.name) is None
    assert folder.find(orphan.name[1:].removesuffix(".tmp")) is None
    age(orphan, local.TEMPORARY_S - 5)
    assert folder.prune() == 0
    age(orphan, local.TEMPORARY_S)
    assert folder.prune() == 1
    assert files_in(root) == []


def abandoned(root: Path, folder: LocalFileStore, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary file of a writer that was killed before it renamed it."""
    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", lambda *args: die())
        killed.setattr(Path, "unlink", lambda *args, **kwargs: None)
        with pytest.raises(KeyboardInterrupt):
            folder.put(b"half", "image/png")
    (orphan,) = root.rglob(".*.tmp")
    return orphan


def die() -> None:
    """Raise what no handler catches."""
    raise KeyboardInterrupt


def test_data_is_durable_before_it_is_named(
    folder: LocalFileStore, monkeypatch: pytest.MonkeyPatch
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

    folder.put(b"x", "image/png")
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    folder.put(b"x", "image/png")

    assert steps[-3:] == ["file", "rename", "folder"]


def test_a_folder_that_cannot_be_written_is_explained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The client may try again; the operator reads which setting is wrong, and why."""
    (tmp_path / "file").write_bytes(b"")
    folder = LocalFileStore(FileSettings(root=str(tmp_path / "file" / "below")))

    with pytest.raises(StoreUnavailable, match=r"^Files cannot be kept or read at the moment"):
        folder.put(b"x", "image/png")
    assert f"setting files.root: {tmp_path}/file/below cannot be used" in caplog.text
    assert "Not a directory" in caplog.text
    assert folder.find(new_name("image/png", 60.0)) is None
    folder.remove(new_name("image/png", 60.0))
    assert folder.prune() == 0


def test_a_folder_that_fails_is_away(folder: LocalFileStore) -> None:
    """What the disk does not give is unavailable, not unknown."""
    name = new_name("image/png", 60.0)
    folder.path(name).mkdir(parents=True)

    with pytest.raises(StoreUnavailable):
        folder.read(StoredFile(name, 1), 0, 1)
    with pytest.raises(StoreUnavailable):
        folder.remove(name)


def test_objects_lie_below_their_prefix(bucket: str, objects_in: ObjectFileStore) -> None:
    """A key begins with its file's expiry, under the prefix; the object knows its type."""
    file = objects_in.put(b"x", "image/png")
    whole = from_url(f"s3://{bucket}", client_options={"allow_http": True})
    [found] = next(iter(obstore.list(whole)))

    assert found["path"] == f"some/where/{file.name[33:43]}/{file.name}"
    content_type = obstore.get(whole, found["path"]).attributes["Content-Type"]
    assert content_type == "image/png"


def test_a_bucket_keeps_what_is_not_ours(bucket: str, objects_in: ObjectFileStore) -> None:
    """What somebody else keeps in the bucket is neither removed nor in the way."""
    whole = from_url(f"s3://{bucket}", client_options={"allow_http": True})
    old = objects_in.put(b"x", "image/png", -1.0)
    foreign = ["some/where/0/a.png", "some/where/zzz", "other", f"some/where/x/{old.name}"]
    for path in foreign:
        obstore.put(whole, path, b"y")

    assert objects_in.prune() == 1
    left = [found["path"] for page in obstore.list(whole) for found in page]
    assert sorted(left) == sorted(foreign)


def test_a_bucket_that_does_not_exist_is_explained(bucket: str) -> None:
    """The service does not start, and the operator reads what to do."""
    with pytest.raises(
        SetupError, match=rf"^setting files\.root: s3://no{bucket} cannot be used: .*; create the"
    ):
        ObjectFileStore(FileSettings(root=f"s3://no{bucket}"))


@pytest.mark.parametrize("root", ["s3://", "s3:///x", "az://container/x", "s3://b u/x"])
def test_a_url_that_leads_nowhere_is_explained(root: str) -> None:
    """A URL without a bucket, or without an account, is a wrong setting."""
    with pytest.raises(SetupError, match=r"^setting files\.root: .*; create the bucket, or check"):
        ObjectFileStore(FileSettings(root=root))


def test_an_object_store_that_goes_away_is_unavailable(
    bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A bucket that is gone while the service runs fails each call, and the log says why."""
    store = ObjectFileStore(FileSettings(root=f"s3://{bucket}/files"))
    file = store.put(b"x", "image/png")
    store._store = from_url(
        "s3://no-such-bucket",
        endpoint="http://127.0.0.1:9",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )

    for call in (
        lambda: store.put(b"x", "image/png"),
        lambda: store.create(new_name("image/png", 60.0), [b"x"]),
        lambda: store.find(file.name),
        lambda: store.read(file, 0, 1),
        lambda: store.remove(file.name),
        store.prune,
    ):
        with pytest.raises(StoreUnavailable):
            call()
    assert f"setting files.root: s3://{bucket}/files cannot be used: " in caplog.text
