"""Names of weights in Microsoft's original layout, and what they are called in the native one."""

import re
from collections.abc import Iterable

# The first rule that matches renames; each is a pattern of the original and its replacement.
RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"language_model\.lm_head\.", "lm_head."),
        (r"language_model\.model\.", "model.language_model."),
        (r"language_model\.final_logits_bias", "final_logits_bias"),
        (r"(vision_tower\.convs\.\d+)\.proj\.", r"model.\1.conv."),
        (r"(vision_tower\.convs\.\d+\.norm\.)", r"model.\1"),
        (r"(vision_tower\.blocks\.\d+\.\d+\.\w+)\.(conv[12])\.fn\.dw\.", r"model.\1.\2."),
        (r"(vision_tower\.blocks\.\d+\.\d+\.\w+)\.\w+_attn\.norm\.", r"model.\1.norm1."),
        (r"(vision_tower\.blocks\.\d+\.\d+\.\w+)\.ffn\.norm\.", r"model.\1.norm2."),
        (r"(vision_tower\.blocks\.\d+\.\d+\.\w+\.\w+_attn)\.fn\.", r"model.\1."),
        (r"(vision_tower\.blocks\.\d+\.\d+\.\w+\.ffn)\.fn\.net\.", r"model.\1."),
        (r"image_projection$", "model.multi_modal_projector.image_projection.weight"),
        (r"image_proj_norm\.", "model.multi_modal_projector.image_proj_norm."),
        (r"image_pos_embed\.", "model.multi_modal_projector.image_position_embed."),
        (r"visual_temporal_embed\.", "model.multi_modal_projector.visual_temporal_embed."),
    )
)
TRANSPOSED = "image_projection"  # a bare matrix there, the weight of a linear layer here
ORIGINAL = ("language_model.", "vision_tower.", "image_pro", "image_pos_embed.", "visual_temporal")


def native_name(original: str) -> str | None:
    """The native name of a tensor of the original layout; None if there is none."""
    for pattern, replacement in RULES:
        if match := pattern.match(original):
            return match.expand(replacement) + original[match.end() :]
    return None


def native_module(name: str) -> str | None:
    """The native name of a module in either layout; None if it has none."""
    if is_original([name]):
        renamed = native_name(f"{name}.weight")
        return renamed.removesuffix(".weight") if renamed else None
    return name


def is_original(names: Iterable[str]) -> bool:
    """Whether these are names of the original layout."""
    return any(name.startswith(ORIGINAL) for name in names)
