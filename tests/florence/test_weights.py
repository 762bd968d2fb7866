"""Only a checkpoint's own weights are ever loaded: what is wrong with others is one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.florence.checkpoint import Checkpoint, open_checkpoint
from deployments.florence.model import Model
from deployments.florence.weights import check_headers, expected_shapes
from deployments.settings import DEMO_CHECKPOINT, ModelSettings
from tests.florence.adapters import save_adapter
from tests.florence.sequences import demo, model
from tests.refusal import refusal_of

State = dict[str, torch.Tensor]
FC1 = "model.language_model.decoder.layers.1.fc1.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the demo checkpoint, to be broken."""
    shutil.copytree(DEMO_CHECKPOINT, tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, change: Callable[[State], Any]) -> None:
    """Change the weights."""
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def configure(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refusal(folder: Path) -> str:
    return refusal_of(Model, demo(path=str(folder)))


def test_the_demos_weights_are_its_own() -> None:
    """Every tensor of the model's state is in its file, but for those that are tied."""
    check_headers(DEMO_CHECKPOINT)
    assert len(expected_shapes(DEMO_CHECKPOINT)) == 267


def test_a_layer_without_weights_is_named(folder: Path) -> None:
    """Transformers would draw it at random."""
    rewrite(
        folder, lambda state: [state.pop(name) for name in list(state) if "layers.1.fc1" in name]
    )
    assert "lack model.language_model.decoder.layers.1.fc1.bias and 3 more" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop(FC1), f"lack {FC1}: "),
        (lambda state: state[FC1][3, 4].fill_(torch.nan), f"{FC1} not finite in float32"),
        (lambda state: state.update(x=torch.ones(1)), "has x, which Florence-2 has not"),
        (lambda state: state.update({FC1: state[FC1].to(torch.int8)}), "of type I8: quantised"),
        (lambda state: state.update({FC1: state[FC1][1:].clone()}), "of shape (639, 160)"),
    ],
    ids=["missing", "not finite", "unknown", "quantised", "another shape"],
)
def test_a_wrong_tensor_is_named(folder: Path, change: Callable[[State], Any], says: str) -> None:
    rewrite(folder, change)
    assert says in refusal(folder)


def test_what_older_versions_saved_beside_the_weights_is_no_fault(folder: Path) -> None:
    """Copies of the tied embedding, and BART's empty bias."""
    shared = load_file(folder / "model.safetensors")["model.language_model.shared.weight"]
    copies = {
        "lm_head.weight": shared.clone(),
        "model.language_model.encoder.embed_tokens.weight": shared.clone(),
        "final_logits_bias": torch.zeros(1, 1600),
    }
    rewrite(folder, lambda state: state.update(copies))
    loaded = Model(demo(path=str(folder))).florence.state_dict()
    assert all(
        torch.equal(each, loaded[name]) for name, each in model().florence.state_dict().items()
    )


def test_a_bias_of_the_head_is_refused(folder: Path) -> None:
    """It would be ignored."""
    rewrite(folder, lambda state: state.update(final_logits_bias=torch.ones(1, 1600)))
    assert "has a final_logits_bias of its own, which would be ignored" in refusal(folder)


def test_a_head_of_its_own_is_used(folder: Path) -> None:
    """Also where the configuration ties it, as it does in some fine-tunes."""
    head = load_file(folder / "model.safetensors")["model.language_model.shared.weight"] + 1
    rewrite(folder, lambda state: state.update({"lm_head.weight": head}))
    florence = Model(demo(path=str(folder))).florence
    torch.testing.assert_close(florence.lm_head.weight.data, head.float())
    assert florence.lm_head.weight.data_ptr() != florence.get_input_embeddings().weight.data_ptr()


def test_a_missing_shard_is_named(folder: Path) -> None:
    """The index says which there should be."""
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(folder / "model.safetensors", folder / "model-1.safetensors")
    assert "model-2.safetensors is missing" in refusal(folder)


def test_weights_of_another_kind_are_refused(folder: Path) -> None:
    """Quantised ones, and such as may run code."""
    configure(folder, quantization_config={"load_in_4bit": True})
    assert "is quantised, which is not served" in refusal(folder)
    shutil.copy(DEMO_CHECKPOINT / "config.json", folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    line = refusal(folder)
    assert "has pytorch_model.bin only" in line
    assert f"run `florence convert {folder} model-native`" in line


def test_an_adapter_beside_its_base_is_refused(folder: Path) -> None:
    """It would be ignored."""
    save_adapter(folder / "adapter", model_copy())
    for file in (folder / "adapter").iterdir():
        shutil.copy(file, folder)
    line = f"`florence convert {folder} model-merged --adapter {folder}`"
    assert line in refusal(folder)


def test_an_adapter_alone_says_how_it_is_merged(tmp_path: Path) -> None:
    """With the base that its description names."""
    save_adapter(tmp_path, model_copy())
    line = refusal_of(open_checkpoint, ModelSettings(path=str(tmp_path)))
    merge = f"{tmp_path.name}-merged --adapter {tmp_path}`"
    assert f"run `florence convert {DEMO_CHECKPOINT} {merge}" in line


def test_microsofts_layout_says_how_it_is_converted(folder: Path) -> None:
    """A hub id does as well."""
    configure(folder, vision_config={"model_type": "davit"}, auto_map={"AutoConfig": "x"})
    line = refusal_of(Checkpoint(folder).check)
    assert f"run `florence convert {folder} model-native`" in line
    line = refusal_of(open_checkpoint, ModelSettings(path="microsoft/Florence-2-base"))
    assert "`florence convert microsoft/Florence-2-base Florence-2-base-native`" in line


def model_copy() -> Any:
    """The demo's model, which PEFT may change."""
    from transformers import Florence2ForConditionalGeneration

    return Florence2ForConditionalGeneration.from_pretrained(DEMO_CHECKPOINT, dtype=torch.float32)
