"""What a local service keeps: one key, private, and its hash."""

import json
import os
import re
import stat
from pathlib import Path

import pytest

from deployments.errors import SetupError
from deployments.local.state import StateFolder, write_private
from deployments.settings import hash_key


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own environment does not matter."""
    monkeypatch.delenv("FLORENCE_API_KEY", raising=False)


def mode(path: Path) -> int:
    """The permissions of a file or folder."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_made_once(tmp_path: Path) -> None:
    """The next start has the same key, in fal's form of two parts."""
    key = StateFolder(tmp_path).api_key()
    assert re.fullmatch(r"florence-[0-9a-f]{8}:[0-9a-f]{32}", key)
    assert key == StateFolder(tmp_path).api_key()
    assert key == StateFolder(tmp_path).stored_key()


def test_two_services_have_two_keys(tmp_path: Path) -> None:
    """Keys are random."""
    assert StateFolder(tmp_path / "a").api_key() != StateFolder(tmp_path / "b").api_key()


def test_only_the_hash_is_accepted_and_kept_for_the_service(tmp_path: Path) -> None:
    """The file that the service reads does not give the key away."""
    state = StateFolder(tmp_path)
    assert state.key_hashes() == (hash_key(state.api_key()),)
    text = (tmp_path / "keys.json").read_text()
    assert json.loads(text) == {"hashes": [hash_key(state.api_key())]}
    assert state.api_key() not in text
    assert state.api_key().split(":")[1] not in text


def test_only_the_owner_can_read(tmp_path: Path) -> None:
    """Folder and files are private, whatever the umask."""
    before = os.umask(0)
    try:
        StateFolder(tmp_path / "new").api_key()
    finally:
        os.umask(before)
    assert mode(tmp_path / "new") == 0o700
    assert {mode(file) for file in (tmp_path / "new").iterdir()} == {0o600}


def test_nothing_is_left_lying_about(tmp_path: Path) -> None:
    """Only the key and its hash are in the folder."""
    StateFolder(tmp_path).api_key()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["api_key", "keys.json"]


def test_the_environments_key_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLORENCE_API_KEY is used as it is; none is made, and the stored one is not accepted."""
    stored = StateFolder(tmp_path).api_key()
    monkeypatch.setenv("FLORENCE_API_KEY", "mine")
    state = StateFolder(tmp_path)
    assert (state.api_key(), state.key_hashes()) == ("mine", ())
    assert state.stored_key() == stored
    assert StateFolder(tmp_path / "other").api_key() == "mine"
    assert list((tmp_path / "other").iterdir()) == []


def test_a_key_without_its_hash_is_made_anew(tmp_path: Path) -> None:
    """A key that would not be accepted is not shown."""
    first = StateFolder(tmp_path).api_key()
    (tmp_path / "keys.json").unlink()
    assert StateFolder(tmp_path).stored_key() is None
    second = StateFolder(tmp_path).api_key()
    assert first != second
    assert StateFolder(tmp_path).key_hashes() == (hash_key(second),)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"hashes": 3}'])
def test_broken_hashes_are_named(tmp_path: Path, content: str) -> None:
    """One line says which file to remove."""
    state = StateFolder(tmp_path)
    state.api_key()
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(SetupError, match=r"keys\.json is broken: remove it"):
        state.key_hashes()


@pytest.mark.parametrize("below", ["file", "file/folder"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, below: str) -> None:
    """One line says which, and which option to use."""
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="choose another folder with --state") as refused:
        StateFolder(tmp_path / below)
    assert str(tmp_path / below) in str(refused.value)


def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found out at the start, not when a key is written."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SetupError, match="cannot be written"):
        StateFolder(tmp_path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """What cannot be written is refused in one line, and the old stays."""
    (tmp_path / "file").mkdir()
    with pytest.raises(SetupError, match="cannot write"):
        write_private(tmp_path / "file", "text")
    assert (tmp_path / "file").is_dir()


def test_a_relative_folder_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's processes have other working directories."""
    monkeypatch.chdir(tmp_path)
    state = StateFolder(Path("here"))
    assert state.files == tmp_path / "here" / "files"
    assert state.tls == tmp_path / "here" / "tls"
