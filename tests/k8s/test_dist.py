"""What is published can be made again, bit for bit."""

import os
import subprocess
from pathlib import Path

import pytest

from k8s.dist import commit_time, publish
from k8s.generate.helm import CHART, documents, load, texts
from tests.k8s.rendered import objects, values_of


def test_the_same_commit_makes_the_same_archive(tmp_path: Path) -> None:
    """Whenever its files were written here; another time makes another one."""
    first = publish(tmp_path / "a", 1_700_000_000)
    os.utime(CHART / "values.yaml")
    again = publish(tmp_path / "b", 1_700_000_000)
    other = publish(tmp_path / "c", 1_700_000_001)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_the_archive_can_be_checked_and_installed(tmp_path: Path) -> None:
    """By its SHA-256, as `sha256sum` reads it."""
    archive = publish(tmp_path, 1_700_000_000)
    check = ["sha256sum", "--check", f"{archive.name}.sha256"]
    subprocess.run(check, cwd=tmp_path, check=True, capture_output=True)
    made = documents(texts(values_of("groups"), chart=archive))
    assert made == list(objects("groups"))


def test_the_time_is_the_commit_s_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """SOURCE_DATE_EPOCH is what packagers set."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert commit_time() > 1_700_000_000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert commit_time() == 1_700_000_000


def test_artifact_hub_reads_the_annotations() -> None:
    """Its lists are YAML in text."""
    notes = load((CHART / "Chart.yaml").read_text())["annotations"]
    for change in load(notes["artifacthub.io/changes"]):
        assert change["kind"] in ("added", "changed", "deprecated", "removed", "fixed", "security")
        assert change["description"]
    assert all({"name", "url"} == set(link) for link in load(notes["artifacthub.io/links"]))
    assert notes["artifacthub.io/operator"] in ("true", "false")
