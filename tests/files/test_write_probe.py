"""A place that takes no files is refused at the start, and told afterwards."""

import asyncio
import os
from pathlib import Path

import pytest

from deployments.errors import SetupError
from deployments.files import write_probe
from deployments.files.local import LocalFileStore
from deployments.files.write_probe import PROBE, WriteProbe, open_writable_store, probe
from deployments.settings import FileSettings


def blocked(folder: Path) -> Path:
    """A folder where no file can be made, for root neither: a file is in its way."""
    (folder / "file").write_text("")
    return folder / "file" / "files"


def test_a_folder_that_can_be_written_is_opened(tmp_path: Path) -> None:
    """It is made, and nothing is left in it."""
    store = open_writable_store(FileSettings(root=str(tmp_path / "files")))
    assert probe(store) == PROBE
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """In one line, with the setting, the reason and the remedy."""
    root = blocked(tmp_path)
    with pytest.raises(SetupError) as refusal:
        open_writable_store(FileSettings(root=str(root)))
    said = str(refusal.value)
    assert said.startswith(f"setting files.root: {root} cannot be written: ")
    assert "Not a directory" in said
    assert said.endswith("make it writable, or name another folder or bucket")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_is_refused(tmp_path: Path) -> None:
    """As a volume of another group is."""
    tmp_path.chmod(0o500)
    with pytest.raises(SetupError, match="Permission denied"):
        open_writable_store(FileSettings(root=str(tmp_path / "files")))


def test_readiness_follows_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways; between two questions the last answer counts."""
    root = tmp_path / "files"
    asked = WriteProbe(LocalFileStore(FileSettings(root=str(root))))

    async def follow() -> list[bool]:
        found = [await asked.is_writable()]
        root.rename(tmp_path / "away")
        root.write_text("")
        found.append(await asked.is_writable())
        monkeypatch.setattr(write_probe, "EVERY_S", 0)
        found.append(await asked.is_writable())
        root.unlink()
        return [*found, await asked.is_writable()]

    assert asyncio.run(follow()) == [True, True, False, True]
