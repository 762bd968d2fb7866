"""What clients hear of a model: enough to know it again, and nothing of the machine."""

import json
import shutil
from pathlib import Path

import pytest

from deployments.florence.checkpoint import DEMO_MARK, Checkpoint
from deployments.florence.identity import headers, identity, name_of
from deployments.settings import DEMO_CHECKPOINT


def checkpoint(folder: Path, **config: object) -> Checkpoint:
    """One of which nothing but its configuration is there."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "florence2", **config}))
    return Checkpoint(folder)


def test_the_demo_is_the_demo_wherever_it_lies(tmp_path: Path) -> None:
    """A copy of the folder is marked as well; its name does not matter."""
    copy = tmp_path / "florence-large"
    shutil.copytree(DEMO_CHECKPOINT, copy, ignore=shutil.ignore_patterns("*.safetensors"))

    assert name_of(Checkpoint(DEMO_CHECKPOINT)) == name_of(Checkpoint(copy)) == "demo"


def test_another_checkpoint_in_a_folder_called_demo_is_not_the_demo(tmp_path: Path) -> None:
    """Only the mark makes it so, and it must be `true`."""
    assert not checkpoint(tmp_path / "demo").is_demo
    assert not checkpoint(tmp_path / "other", **{DEMO_MARK: "yes"}).is_demo


def test_a_model_of_the_hub_has_its_id_and_revision(tmp_path: Path) -> None:
    """As the hub's own cache names the snapshot."""
    snapshot = tmp_path / "models--florence-community--Florence-2-large" / "snapshots" / "0a1b2c"

    assert name_of(checkpoint(snapshot)) == "florence-community/Florence-2-large@0a1b2c"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("florence-2-ft", "florence-2-ft"),
        ("mein Modell ü; x=1", "mein%20Modell%20%C3%BC%3B%20x%3D1"),
    ],
)
def test_a_folder_is_its_name_alone(tmp_path: Path, folder: str, name: str) -> None:
    """Without the path, and with nothing that a header cannot hold or a reader would split at."""
    assert name_of(checkpoint(tmp_path / "private" / folder)) == name


def test_how_it_was_run_stands_behind_the_name() -> None:
    """Parameters as of a media type; the demo has none."""
    assert identity("a/b@c", "float16", 3) == "a/b@c; dtype=float16; beams=3"
    assert identity("demo", "float32", 3) == "demo"


def test_an_answer_of_nobody_has_no_header() -> None:
    """As that of a replica from before, while a new version is rolled out."""
    assert headers("") == {}
    assert headers("demo") == {"x-florence-model": "demo"}
