"""The adapters of the settings: read beside the base, refused in one line, engine only."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from deployments.errors import SetupError
from deployments.florence.adapters import read_adapters
from deployments.florence.checkpoint import Checkpoint
from deployments.florence.model import Model
from deployments.florence.open import open_backend
from deployments.settings import DEMO_CHECKPOINT, InferenceSettings, ModelSettings
from tests.florence.adapter_folders import RANK, write_adapter
from tests.florence.sequences import answers, demo, prompt, sequence

BASE = Checkpoint(DEMO_CHECKPOINT)
TASK = "object-detection"


def settings(**folders: Path) -> ModelSettings:
    """The demo with these adapters."""
    return demo(adapters={name: str(folder) for name, folder in folders.items()})


def refusal(folder: Path) -> str:
    """Why an adapter is refused: a line with its name."""
    with pytest.raises(SetupError) as raised:
        read_adapters(settings(tenant=folder), BASE)
    line = str(raised.value)
    assert line.startswith("adapter tenant")
    assert "\n" not in line
    return line


def test_without_adapters_no_file_is_read() -> None:
    """Not even the base's."""
    assert read_adapters(demo(), Checkpoint(Path("/no/such/folder"))) == {}


def test_adapters_are_read_by_name(tmp_path: Path) -> None:
    """Each module's factors make up what was written."""
    added = write_adapter(tmp_path / "a")
    write_adapter(tmp_path / "b", seed=1)
    found = read_adapters(settings(first=tmp_path / "a", second=tmp_path / "b"), BASE)
    assert list(found) == ["first", "second"]
    assert {f"{module}.weight" for module in found["first"]} == added.keys()
    for module, pair in found["first"].items():
        np.testing.assert_allclose(
            pair.scale * pair.up @ pair.down, added[f"{module}.weight"], atol=1e-6
        )


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """The line names it."""
    assert str(tmp_path / "nothing") in refusal(tmp_path / "nothing")


def test_a_copy_of_the_bases_head_is_compared(tmp_path: Path) -> None:
    """PEFT saves one with an adapted head; another one is another checkpoint's."""
    write_adapter(tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    head = load_file(DEMO_CHECKPOINT / "model.safetensors")["model.language_model.shared.weight"]
    name = "base_model.model.lm_head.base_layer.weight"
    save_file(load_file(file) | {name: head}, file)
    assert read_adapters(settings(a=tmp_path / "a"), BASE)
    save_file(load_file(file) | {name: head + 1}, file)
    assert "its copy of lm_head is not the checkpoint's" in refusal(tmp_path / "a")


def test_a_dora_adapter_is_refused_with_the_command_that_merges_it(tmp_path: Path) -> None:
    """Its norms depend on the base's weights."""
    write_adapter(tmp_path, use_dora=True)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    for name in [name for name in tensors if "lora_B" in name]:
        magnitude = name.replace("lora_B.weight", "lora_magnitude_vector")
        tensors[magnitude] = np.ones(len(tensors[name]), np.float32)
    save_file(tensors, file)
    line = refusal(tmp_path)
    assert f"florence convert demo DEST --adapter {tmp_path}" in line


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    """Before any weight is loaded."""
    write_adapter(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "lora_A" in name)
    tensors[name] = np.zeros((RANK, 7), np.float32)
    save_file(tensors, file)
    assert "another checkpoint" in refusal(tmp_path)


def test_generate_knows_no_adapters(tmp_path: Path) -> None:
    """One line says what to do."""
    write_adapter(tmp_path)
    model = Model(settings(tenant=tmp_path))
    with pytest.raises(SetupError, match=r"set inference\.backend to engine, or merge") as raised:
        open_backend(model, InferenceSettings(backend="generate"), [prompt("caption")])
    assert "\n" not in str(raised.value)


def test_an_engine_answers_with_the_adapter_that_is_asked_for(tmp_path: Path) -> None:
    """In one batch: the base as ever, and others otherwise."""
    write_adapter(tmp_path / "a")
    write_adapter(tmp_path / "b", seed=1)
    longest = [prompt(TASK)]
    plain = open_backend(Model(demo()), InferenceSettings(max_new_tokens=20), longest)
    adapted = open_backend(
        Model(settings(first=tmp_path / "a", second=tmp_path / "b")),
        InferenceSettings(max_new_tokens=20),
        longest,
    )
    asked = [sequence(7, TASK, adapter=name) for name in ("first", "", "second")]
    [expected] = answers(plain, [sequence(7, TASK)])
    first, base, second = answers(adapted, asked)
    assert base == expected
    assert len({first, base, second}) == 3
