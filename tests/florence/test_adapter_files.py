"""Adapters of PEFT are read whole, with native names, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Florence2ForConditionalGeneration

from deployments.florence.adapter_files import check_copies, is_adapter, read_adapter
from deployments.florence.tensor_files import Header, read_headers
from deployments.settings import DEMO_CHECKPOINT
from tests.florence.adapters import rewrite, save_adapter
from tests.refusal import refusal_of

BASE = read_headers(DEMO_CHECKPOINT / "model.safetensors")


def demo() -> Any:
    return Florence2ForConditionalGeneration.from_pretrained(DEMO_CHECKPOINT, dtype=torch.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter of the demo."""
    save_adapter(tmp_path, demo())
    return tmp_path


def configure(folder: Path, **values: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"fc1": 2}, "alpha_pattern": {"decoder.*fc1": 5, "qkv": 1}},
    ],
    ids=["LoRA", "rank-stabilised", "DoRA", "patterns"],
)
def test_what_is_read_is_what_peft_adds(tmp_path: Path, options: dict[str, Any]) -> None:
    """Of every layer, to the last bit but for the order of the products."""
    model = save_adapter(tmp_path, demo(), **options)
    adapter = read_adapter(tmp_path, BASE)
    assert is_adapter(tmp_path)
    assert adapter.is_dora == bool(options.get("use_dora"))
    seen = set()
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_A"):
            seen.add(name)
            layer = adapter.layers[name]
            added = layer.scale * layer.up @ layer.down
            np.testing.assert_allclose(
                added, module.get_delta_weight("default").detach(), atol=1e-6
            )
            if layer.magnitude is not None:
                length = module.lora_magnitude_vector["default"].weight.detach()
                np.testing.assert_array_equal(layer.magnitude, length)
    assert set(adapter.layers) == seen


def test_an_adapter_of_the_original_layout_has_native_names(folder: Path) -> None:
    """And bfloat16 is read as float32."""
    before = read_adapter(folder, BASE).layers

    def original(tensors: dict[str, Any]) -> dict[str, Any]:
        return {
            name.replace("model.model.language_model.", "model.language_model.model.")
            .replace("model.model.vision_tower.", "model.vision_tower.")
            .replace("_attn.qkv", "_attn.fn.qkv")
            .replace(".ffn.", ".ffn.fn.net."): each.bfloat16()
            for name, each in tensors.items()
            if "image_projection" not in name
        }

    rewrite(folder, original)
    after = read_adapter(folder, BASE).layers
    assert set(after) == {name for name in before if "image_projection" not in name}
    for name, layer in after.items():
        np.testing.assert_allclose(layer.up, before[name].up, rtol=1e-2)


def test_a_head_of_the_unpadded_vocabulary_fits(tmp_path: Path) -> None:
    """The rows that are missing add nothing."""
    save_adapter(tmp_path, demo(), target_modules=["lm_head"])
    rewrite(
        tmp_path,
        lambda found: {k: v[:1546].clone() if "lora_B" in k else v for k, v in found.items()},
    )
    adapter = read_adapter(tmp_path, BASE)
    layer = adapter.layers["lm_head"]
    assert layer.up.shape[0] == 1600
    assert not layer.up[1546:].any()
    weight = demo().lm_head.weight.detach().numpy()
    check_copies(adapter, lambda name: weight)
    assert "another checkpoint" in refusal_of(check_copies, adapter, lambda name: weight + 1)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("modules_to_save", ["lm_head"]),
        ("bias", "all"),
        ("layer_replication", [[0, 1]]),
        ("trainable_token_indices", [5]),
    ],
)
def test_options_that_would_be_ignored_are_refused(folder: Path, option: str, value: Any) -> None:
    configure(folder, **{option: value})
    assert option in refusal_of(read_adapter, folder, BASE)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peft_type": "IA3"}, "is a IA3 adapter: only LoRA and DoRA are known"),
        ({"init_lora_weights": "pissa_niter_4"}, "which changed its base"),
        ({"r": 5}, "has ranks 4 and 4, its adapter_config.json says 5"),
        ({"use_dora": True}, "use_dora"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    folder: Path, change: dict[str, Any], says: str
) -> None:
    configure(folder, **change)
    assert says in refusal_of(read_adapter, folder, BASE)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("base_model.model.model.nowhere.lora_A.weight", "no lora_B"),
        (
            "base_model.model.vision_tower.nowhere.lora_A.weight",
            "has no module vision_tower",
        ),
        ("base_model.model.fc1.weight", "fc1.weight would be ignored"),
        ("base_model.model.model.language_model.shared.lora_embedding_A", "would be ignored"),
    ],
)
def test_a_foreign_tensor_is_refused(folder: Path, name: str, says: str) -> None:
    rewrite(folder, lambda found: found | {name: torch.ones(4, 4)})
    assert says in refusal_of(read_adapter, folder, BASE)


def test_an_adapter_of_another_checkpoint_is_refused(folder: Path) -> None:
    """The layer is named, and both sizes."""
    wider = {name: Header(tuple(2 * n for n in each.shape), "F16") for name, each in BASE.items()}
    assert "it belongs to another checkpoint" in refusal_of(read_adapter, folder, wider)
    assert "has no linear layer" in refusal_of(read_adapter, folder, {})


def test_values_that_are_not_finite_are_refused(folder: Path) -> None:
    rewrite(
        folder, lambda found: {k: v * (torch.nan if "fc1" in k else 1) for k, v in found.items()}
    )
    assert "is not finite: train or fetch it again" in refusal_of(read_adapter, folder, BASE)


def test_broken_folders_are_refused(folder: Path) -> None:
    """Each with what is wrong with it."""
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    assert "cut off" in refusal_of(read_adapter, folder, BASE)
    weights.rename(folder / "adapter_model.bin")
    assert "florence convert BASE DEST --adapter" in refusal_of(read_adapter, folder, BASE)
    (folder / "adapter_model.bin").unlink()
    assert "has no adapter_model.safetensors" in refusal_of(read_adapter, folder, BASE)
    (folder / "adapter_config.json").write_text("[]")
    assert "is broken" in refusal_of(read_adapter, folder, BASE)
    (folder / "adapter_config.json").unlink()
    assert "no adapter of PEFT" in refusal_of(read_adapter, folder, BASE)
