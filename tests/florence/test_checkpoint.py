"""Checkpoints are found, described by their own files, and refused in one line when broken."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import SetupError
from deployments.florence import checkpoint
from deployments.florence.checkpoint import is_hub_id, open_checkpoint, refuse_remote_code
from deployments.florence.tasks import TASKS
from deployments.settings import DEMO_CHECKPOINT, ModelSettings
from tests.refusal import refusal_of

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the demo checkpoint's description, to be broken."""
    for file in DEMO_CHECKPOINT.glob("*.json"):
        shutil.copy(file, tmp_path)
    return tmp_path


def change(file: Path, how: Change) -> None:
    """Rewrite a JSON file."""
    tree = json.loads(file.read_text())
    how(tree)
    file.write_text(json.dumps(tree))


def refusal(path: str) -> str:
    """Why the checkpoint at `path` is refused, in one line."""
    return refusal_of(open_checkpoint, ModelSettings(path=path))


def test_sizes_come_from_the_files() -> None:
    """The demo's own numbers are read, not those of the large model."""
    found = open_checkpoint(ModelSettings(path="demo"))
    assert found.folder == DEMO_CHECKPOINT
    assert found.image_size == (160, 160)
    assert found.resample == 3
    assert found.num_image_tokens == 101
    assert found.max_positions == 512
    assert found.num_beams == 3
    assert found.image_token_id == found.vocabulary.id("<image>")
    assert found.normalisation == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_width_and_height_are_not_exchanged(folder: Path) -> None:
    """`image_size` is (width, height)."""

    def widen(tree: dict[str, Any]) -> None:
        tree["image_processor"]["size"] = {"height": 64, "width": 256}

    change(folder / "processor_config.json", widen)
    assert open_checkpoint(ModelSettings(path=str(folder))).image_size == (256, 64)


def test_the_older_layout_is_read(folder: Path) -> None:
    """The image processor may have a file of its own, as in checkpoints of earlier versions."""
    tree = json.loads((folder / "processor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(tree.pop("image_processor")))
    (folder / "processor_config.json").unlink()
    assert open_checkpoint(ModelSettings(path=str(folder))).image_size == (160, 160)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    """The line says which file is missing, and where."""
    (folder / name).unlink()
    line = refusal(str(folder))
    assert f"has no {name}" in line
    assert str(folder) in line


def test_a_missing_image_processor_is_named(folder: Path) -> None:
    """Without either file that describes images, the older one is asked for."""
    (folder / "processor_config.json").unlink()
    assert "has no preprocessor_config.json" in refusal(str(folder))


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"{}", b"3"])
def test_a_broken_file_is_refused(folder: Path, name: str, content: bytes) -> None:
    """Cut short, not text, or of another shape: one line, which names the folder."""
    (folder / name).write_bytes(content)
    assert str(folder) in refusal(str(folder))


@pytest.mark.parametrize(
    ("content", "num_beams"),
    [(None, 1), ("{}", 1), ('{"num_beams": null}', 1), ('{"num_beams": 5}', 5)],
)
def test_beams_are_those_of_the_generation_config(
    folder: Path, content: str | None, num_beams: int
) -> None:
    """Without the file, or without a word in it, the search is greedy, as in transformers."""
    file = folder / "generation_config.json"
    file.unlink()
    if content is not None:
        file.write_text(content)

    settings = ModelSettings(path=str(folder), accept_missing_rules=True)
    assert open_checkpoint(settings).num_beams == num_beams


def test_older_files_keep_the_search_in_the_config(folder: Path) -> None:
    """What generation_config.json does not say is in text_config or above it."""
    (folder / "generation_config.json").write_text('{"num_beams": 2}')
    above = {"decoder_start_token_id": 7, "no_repeat_ngram_size": 3}
    change(folder / "config.json", lambda tree: tree.update(above))
    older = {"forced_bos_token_id": 0, "num_beams": 3, "length_penalty": None}
    change(folder / "config.json", lambda tree: tree["text_config"].update(older))
    search = open_checkpoint(ModelSettings(path=str(folder))).search
    assert search["num_beams"] == 2
    assert search["forced_bos_token_id"] == 0
    assert search["decoder_start_token_id"] == 2  # text_config's own
    assert search["no_repeat_ngram_size"] == 3
    assert "length_penalty" not in search


@pytest.mark.parametrize("name", ["forced_bos_token_id", "decoder_start_token_id", "eos_token_id"])
def test_a_missing_rule_is_refused_unless_it_is_accepted(folder: Path, name: str) -> None:
    """The line says what is missing and what that does."""
    change(folder / "generation_config.json", lambda tree: tree.pop(name))
    change(folder / "config.json", lambda tree: tree.pop(name, None))
    change(folder / "config.json", lambda tree: tree["text_config"].pop(name, None))
    line = refusal(str(folder))
    assert f"says {name}, without which answers can be an endless <s>" in line
    assert "set model.accept_missing_rules to true" in line
    open_checkpoint(ModelSettings(path=str(folder), accept_missing_rules=True))


@pytest.mark.parametrize("content", ["{", "[]", '{"num_beams": "many"}'])
def test_a_broken_generation_config_is_refused(folder: Path, content: str) -> None:
    """One line, which names the folder."""
    (folder / "generation_config.json").write_text(content)
    assert str(folder) in refusal(str(folder))


def test_another_model_is_refused(folder: Path) -> None:
    """A folder of some other architecture is named for what it is."""
    change(folder / "config.json", lambda tree: tree.update(model_type="bart"))
    assert "holds a bart model, not florence2" in refusal(str(folder))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("processor_config.json", ("image_processor", "size")),
        ("processor_config.json", ("image_processor", "size", "width")),
        ("processor_config.json", ("image_processor", "image_mean")),
        ("processor_config.json", ("image_processor", "image_seq_length")),
        ("config.json", ("image_token_id",)),
        ("config.json", ("text_config", "max_position_embeddings")),
    ],
)
def test_a_missing_number_is_named(folder: Path, name: str, path: tuple[str, ...]) -> None:
    """The line says what the description lacks."""

    def remove(tree: dict[str, Any]) -> None:
        *way, last = path
        for key in way:
            tree = tree[key]
        del tree[last]

    change(folder / name, remove)
    assert f"'{path[-1]}'" in refusal(str(folder))


@pytest.mark.parametrize("path", ["/nowhere/at/all", "./nothing", "nothing", "a/b/c", "~/nothing"])
def test_a_missing_folder_is_refused(path: str) -> None:
    """What is neither a folder nor a hub id is refused without asking the hub."""
    assert "no checkpoint folder at" in refusal(path)


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("microsoft/Florence-2-large", "florence-community/Florence-2-large"),
        ("microsoft/Florence-2-base-ft", "florence-community/Florence-2-base-ft"),
        ("Microsoft/Florence-2-base", "florence-community/Florence-2-base"),
    ],
)
def test_ids_that_need_remote_code_are_refused(path: str, right: str) -> None:
    """The line names the id that works."""
    assert f"use {right}, the same weights" in refusal(path)


@pytest.mark.parametrize("path", ["demo", "florence-community/Florence-2-large", "/a/microsoft/b"])
def test_other_paths_are_not_refused(path: str) -> None:
    """Only the owner counts."""
    refuse_remote_code(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a/b", True), ("./b", False), ("~/b", False), ("/b", False), ("b", False), ("a/b/c", False)],
)
def test_hub_ids_differ_from_folders(path: str, expected: bool) -> None:
    """A hub id is owner/name."""
    assert expected == is_hub_id(path)


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the hub's client raises becomes a line that says what to do."""

    def snapshot_download(*_: object, **__: object) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert "could not fetch a/b from the hub (ConnectionError)" in refusal("a/b")


def test_a_download_takes_the_pinned_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is asked for the revision of the settings, and for the description files alone."""
    asked: list[dict[str, Any]] = []

    def snapshot_download(path: str, **options: Any) -> str:
        asked.append({"path": path, **options})
        return str(DEMO_CHECKPOINT)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    open_checkpoint(ModelSettings(path="a/b", revision="v1"))
    assert asked == [{"path": "a/b", "revision": "v1", "allow_patterns": ["*.json"]}]


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.path)
def test_a_prompt_makes_room_for_the_image(task: Any) -> None:
    """A prompt is the image's place, then the framed sentence."""
    found = open_checkpoint(ModelSettings(path="demo"))
    expected = [found.image_token_id] * found.num_image_tokens + found.vocabulary.encode(
        task.sentence
    )
    assert expected == found.prompt(task.sentence)


def test_a_prompt_that_is_too_long_is_refused() -> None:
    """The line gives both lengths."""
    found = checkpoint.Checkpoint(DEMO_CHECKPOINT)
    with pytest.raises(SetupError, match="reads 512"):
        found.prompt("circle " * 500)
