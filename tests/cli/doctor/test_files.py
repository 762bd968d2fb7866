"""Folders and buckets that can be written, and those that cannot."""

import subprocess
import sys
from pathlib import Path

import pytest

from deployments.cli.doctor import files as module
from deployments.cli.doctor.check import safely
from deployments.cli.doctor.files import files
from deployments.cli.doctor.verdict import Kind, Verdict
from tests.cli.doctor.conftest import subject

ROOT = Path(__file__).parents[3]


def looked(root: object) -> Verdict:
    """What the check says of a place."""
    return safely(lambda: files(subject({"files": {"root": str(root)}})))


def left_in(folder: Path) -> list[Path]:
    """The files below a folder."""
    return [each for each in folder.rglob("*") if each.is_file()]


def test_a_folder_is_written_and_left_as_it_was(tmp_path: Path) -> None:
    """The probe is gone."""
    found = looked(tmp_path)
    assert found.kind is Kind.OK
    assert "is writable" in found.said
    assert left_in(tmp_path) == []


def test_a_folder_that_is_not_there_is_made_later(tmp_path: Path) -> None:
    """Not by a look."""
    assert looked(tmp_path / "a" / "b").kind is Kind.OK
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_folder_can_be_fails() -> None:
    """With what to change."""
    found = looked("/dev/null/files")
    assert found.kind is Kind.FAIL
    assert "/dev/null is no folder that can be written" in found.said
    assert "files.root" in found.remedy


# In a process of its own, as the limit holds for whatever the tests write, too.
NO_BYTE_MORE = """
import resource, sys
from tests.cli.doctor.test_files import looked
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # as on a full disk
found = looked(sys.argv[1])
print(found.kind, found.said)
"""


def test_a_folder_that_takes_nothing_fails(tmp_path: Path) -> None:
    """The reason is the system's."""
    done = subprocess.run(
        [sys.executable, "-c", NO_BYTE_MORE, tmp_path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    said = f"fail {tmp_path} cannot be written: [Errno 27] File too large"
    assert done.stdout.startswith(said)
    assert left_in(tmp_path) == []


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is."""
    monkeypatch.setattr(module, "LEAST_FREE", 1 << 80)
    assert looked(tmp_path).kind is Kind.WARN


def test_a_bucket_is_written(bucket: str) -> None:
    """And read and deleted from."""
    found = looked(f"s3://{bucket}/florence")
    assert (found.kind, "written, read and deleted" in found.said) == (Kind.OK, True)


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_fails() -> None:
    """With what to change."""
    found = looked("s3://nowhere-at-all/florence")
    assert found.kind is Kind.FAIL
    assert "create the bucket" in found.said
