"""Checkpoints in Microsoft's layout, made of native ones by the inverse of the renaming."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Florence2Config, Florence2ForConditionalGeneration

from deployments.settings import DEMO_CHECKPOINT

State = dict[str, torch.Tensor]

TIED = tuple(f"model.language_model.{part}.embed_tokens.weight" for part in ("encoder", "decoder"))
PROJECTOR = "model.multi_modal_projector."
VISION_NAMES = {"embed_dim": "dim_embed"}


def original_name(native: str) -> str:
    """What Microsoft's code calls a native tensor."""
    if native == f"{PROJECTOR}image_projection.weight":
        return "image_projection"
    if native.startswith("model.language_model."):
        return native.replace("model.language_model.", "language_model.model.")
    if native.startswith(PROJECTOR):
        name = native.removeprefix(PROJECTOR)
        return name.replace("image_position_embed", "image_pos_embed")
    if not native.startswith("model.vision_tower."):
        return f"language_model.{native}"
    name = native.removeprefix("model.")
    name = re.sub(r"convs\.(\d+)\.conv\.", r"convs.\1.proj.", name)
    name = re.sub(r"\.(conv[12])\.(\w+)$", r".\1.fn.dw.\2", name)
    name = re.sub(r"spatial_block\.norm1", "spatial_block.window_attn.norm", name)
    name = re.sub(r"channel_block\.norm1", "channel_block.channel_attn.norm", name)
    name = re.sub(r"\.norm2\.", ".ffn.norm.", name)
    name = re.sub(r"_attn\.(qkv|proj)\.", r"_attn.fn.\1.", name)
    return re.sub(r"\.ffn\.(fc[12])\.", r".ffn.fn.net.\1.", name)


def write_original(native: Path, folder: Path, rows: int | None = None) -> State:
    """Write the checkpoint `native` to `folder` in Microsoft's layout.

    Args:
        rows: words that the vocabulary has there, without padding and `<image>`; None for all.

    Returns:
        The weights, which are in `model.safetensors`.
    """
    folder.mkdir()
    state = load_file(native / "model.safetensors")
    shared = state["model.language_model.shared.weight"]
    for name in (
        "lm_head.weight",
        *(f"model.language_model.{n}.embed_tokens.weight" for n in ("encoder", "decoder")),
    ):
        state.setdefault(name, shared)
    found = {original_name(name): each.clone() for name, each in state.items()}
    for name in found:
        if name.endswith(("shared.weight", "embed_tokens.weight", "lm_head.weight")):
            found[name] = found[name][:rows].clone()
    found["image_projection"] = found["image_projection"].T.contiguous()
    found["language_model.final_logits_bias"] = torch.zeros(1, rows or len(shared))
    save_file(found, folder / "model.safetensors")
    describe(native, folder)
    return found


def describe(native: Path, folder: Path) -> None:
    """Write the descriptions; the tokenizer is without the tokens that Microsoft's code adds."""
    config = json.loads((native / "config.json").read_text())
    vision = config["vision_config"]
    own = {VISION_NAMES.get(key, key): value for key, value in vision.items()}
    own |= {
        "model_type": "davit",
        "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
        "image_pos_embed": {
            "type": "learned_abs_2d",
            "max_pos_embeddings": own.pop("max_position_embeddings"),
        },
        "visual_temporal_embedding": {
            "type": "COSINE",
            "max_temporal_embeddings": own.pop("max_temporal_embeddings"),
        },
    }
    for key in ("mlp_ratio", "qkv_bias", "in_channels", "activation_function"):
        own.pop(key)
    rules = json.loads((native / "generation_config.json").read_text())
    rules.pop("transformers_version", None)
    text = config["text_config"] | {"model_type": "florence2_language"} | rules
    tree = {"model_type": "florence2", "auto_map": {}, "text_config": text, "vision_config": own}
    (folder / "config.json").write_text(json.dumps(tree))
    processor = json.loads((native / "processor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(processor["image_processor"]))
    tokenizer = json.loads((native / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:5]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def make_native(folder: Path, *, is_tied: bool = True, **vision: Any) -> Path:
    """A native checkpoint of random weights; the demo's words and pictures of 160 pixels."""
    folder.mkdir()
    for file in DEMO_CHECKPOINT.glob("*.json"):
        shutil.copy(file, folder)
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = is_tied
    config["vision_config"] |= vision
    config["vision_config"]["projection_dim"] = config["text_config"]["d_model"] = 96
    config["text_config"] |= {
        "decoder_attention_heads": 4,
        "encoder_attention_heads": 4,
        "decoder_layers": 2,
        "encoder_layers": 3,
    }
    config.pop("florence_serve_demo")
    torch.manual_seed(5)
    model: Any = Florence2ForConditionalGeneration(Florence2Config(**config))
    model.eval()
    with torch.no_grad():
        for name, each in model.named_parameters():
            if "norm" not in name:
                each.add_(torch.randn_like(each) * 0.05)
    model.generation_config = None
    state = {name: each.clone().contiguous() for name, each in model.state_dict().items()}
    dropped = ["encoder.embed_tokens", "decoder.embed_tokens", *(["lm_head"] if is_tied else [])]
    state = {n: each for n, each in state.items() if not any(part in n for part in dropped)}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    processor = json.loads((folder / "processor_config.json").read_text())
    processor["image_processor"]["image_seq_length"] = num_image_tokens(config["vision_config"])
    (folder / "processor_config.json").write_text(json.dumps(processor))
    return folder


def num_image_tokens(vision: dict[str, Any]) -> int:
    """Of pictures of 160 pixels, whose sides the strides divide."""
    side = 160
    for stride in vision["patch_stride"]:
        side = -(-side // stride)
    return side * side + 1
