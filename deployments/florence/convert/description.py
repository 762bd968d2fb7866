"""What a checkpoint says about itself, from Microsoft's words to the native ones; no torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments.errors import SetupError
from deployments.florence.checkpoint import read
from deployments.settings import DEMO_CHECKPOINT

Tree = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]

TEXT = [
    "activation_dropout",
    "activation_function",
    "attention_dropout",
    "bos_token_id",
    "classifier_dropout",
    "d_model",
    "decoder_attention_heads",
    "decoder_ffn_dim",
    "decoder_layerdrop",
    "decoder_layers",
    "decoder_start_token_id",
    "dropout",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "encoder_layerdrop",
    "encoder_layers",
    "eos_token_id",
    "forced_eos_token_id",
    "init_std",
    "max_position_embeddings",
    "pad_token_id",
    "scale_embedding",
    "use_cache",
]
# What Microsoft's code takes where the file says nothing: the large model.
VISION: Tree = {
    "depths": [1, 1, 9, 1],
    "drop_path_rate": 0.1,
    "num_groups": [8, 16, 32, 64],
    "num_heads": [8, 16, 32, 64],
    "patch_padding": [3, 1, 1, 1],
    "patch_prenorm": [False, True, True, True],
    "patch_size": [7, 3, 3, 3],
    "patch_stride": [4, 2, 2, 2],
    "projection_dim": 1024,
    "window_size": 12,
}
EMBED_DIM = [256, 512, 1024, 2048]
FEATURES = ["spatial_avg_pool", "temporal_avg_pool"]
FAMILY_RULES: Tree = {
    "bos_token_id": 0,
    "decoder_start_token_id": 2,
    "early_stopping": True,
    "eos_token_id": 2,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "no_repeat_ngram_size": 3,
    "num_beams": 3,
    "pad_token_id": 1,
}
IMAGENET: Tree = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def native_config(source: Path, original: Tree, shapes: Shapes, image_token: int) -> Tree:
    """`config.json` in the native layout.

    Args:
        shapes: of the weights, by native name.

    Raises:
        SetupError: the vision tower puts its features together in another way.
    """
    text = original.get("text_config") or {}
    shared = shapes["model.language_model.shared.weight"]
    return {
        "architectures": ["Florence2ForConditionalGeneration"],
        "bos_token_id": 0,
        "eos_token_id": 2,
        "image_token_id": image_token,
        "is_encoder_decoder": True,
        "model_type": "florence2",
        "pad_token_id": 1,
        "text_config": {key: text[key] for key in TEXT if text.get(key) is not None}
        | {"model_type": "bart", "tie_word_embeddings": True, "vocab_size": shared[0]},
        "tie_word_embeddings": "lm_head.weight" not in shapes,
        "vision_config": vision_config(source, original.get("vision_config") or {}, shapes),
    }


def vision_config(source: Path, original: Tree, shapes: Shapes) -> Tree:
    """Its part about the vision tower.

    Raises:
        SetupError: it puts its features together in another way.
    """
    positions = original.get("image_pos_embed") or {}
    frames = original.get("visual_temporal_embedding") or {}
    kinds = (
        original.get("image_feature_source", FEATURES),
        positions.get("type", "learned_abs_2d"),
        frames.get("type", "COSINE"),
    )
    if kinds != (FEATURES, "learned_abs_2d", "COSINE"):
        raise SetupError(f"{source} combines image features as {kinds}: no native model does")
    embed_dim = original.get("dim_embed", EMBED_DIM)
    block = "model.vision_tower.blocks.0.0.spatial_block"
    hidden = shapes.get(f"{block}.ffn.fc1.weight", (4 * embed_dim[0],))[0]
    return {key: original.get(key, value) for key, value in VISION.items()} | {
        "activation_function": "gelu",
        "embed_dim": embed_dim,
        "in_channels": 3,
        "max_position_embeddings": positions.get("max_pos_embeddings", 50),
        "max_temporal_embeddings": frames.get("max_temporal_embeddings", 100),
        "mlp_ratio": hidden / embed_dim[0],
        "model_type": "florence_vision",
        "qkv_bias": f"{block}.window_attn.qkv.bias" in shapes,
    }


def generation_config(source: Path, config: Tree) -> Tree:
    """The rules of the family, but for those that the source has of its own."""
    file = source / "generation_config.json"
    own = read(source, file.name) if file.is_file() else {}
    rules = dict(FAMILY_RULES)
    for tree in (config, config.get("text_config") or {}, own):
        known = FAMILY_RULES.keys() | {"length_penalty"}
        rules |= {key: tree[key] for key in known & tree.keys() if tree[key] is not None}
    return rules


def processor_config(source: Path, vision: Tree) -> Tree:
    """`processor_config.json`: how images are prepared, and answers read.

    Raises:
        SetupError: the source does not say it.
    """
    images = read(source, "preprocessor_config.json")
    size = images.get("size") or {}
    try:
        sides = {"height": int(size["height"]), "width": int(size["width"])}
    except (KeyError, TypeError, ValueError):
        raise SetupError(
            f"{source / 'preprocessor_config.json'} gives no height and width"
        ) from None
    demo = json.loads((DEMO_CHECKPOINT / "processor_config.json").read_text())
    return {
        "image_processor": {
            "crop_size": sides,
            "do_center_crop": False,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_processor_type": "CLIPImageProcessor",
            "image_seq_length": num_image_tokens(vision, sides),
            "resample": images.get("resample", 3),
            "rescale_factor": 1 / 255,
            "size": sides,
        }
        | {key: images.get(key, value) for key, value in IMAGENET.items()},
        "num_additional_image_tokens": 0,
        "post_processor_config": demo["post_processor_config"],
        "processor_class": "Florence2Processor",
    }


def num_image_tokens(vision: Tree, size: Mapping[str, int]) -> int:
    """Encoder positions of an image: one a cell of the last stage, and one of their mean."""
    height, width = size["height"], size["width"]
    steps = zip(vision["patch_size"], vision["patch_padding"], vision["patch_stride"], strict=True)
    for kernel, padding, stride in steps:
        height, width = ((n + 2 * padding - kernel) // stride + 1 for n in (height, width))
    return height * width + 1


def write_json(file: Path, tree: Tree) -> None:
    file.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n")
