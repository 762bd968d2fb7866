"""How many slots a GPU has room for, told before the model is loaded."""

from dataclasses import dataclass

import torch
from transformers import Florence2Config

from deployments.florence.backends import options_of, size_of
from deployments.florence.checkpoint import Checkpoint
from deployments.florence.engine.build import shape_of
from deployments.florence.engine.memory import left_bytes
from deployments.florence.model import dtype
from deployments.florence.tasks import TASKS
from deployments.settings import InferenceSettings, ModelSettings


@dataclass(frozen=True)
class Card:
    """A GPU, and how many of its bytes are free."""

    name: str
    total: int
    free: int


@dataclass(frozen=True)
class Room:
    """Bytes that the weights take, that one slot takes, and that may be taken."""

    weights: int
    slot: int
    left: int

    @property
    def slots(self) -> int:
        """How many fit; passes of the encoder need some of the room besides."""
        return max(0, self.left - self.weights) // self.slot


def first_card() -> Card | None:
    """The GPU that the model would run on."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return Card(torch.cuda.get_device_name(), total, free)


def room_on(
    card: Card, checkpoint: Checkpoint, model: ModelSettings, inference: InferenceSettings
) -> Room:
    """What `card` has room for, by the engine's own arithmetic.

    Raises:
        SetupError: the checkpoint is not complete.
    """
    kind = dtype(model.dtype, torch.device("cuda"))
    text = Florence2Config.from_pretrained(checkpoint.folder, local_files_only=True).text_config
    num_image_tokens = checkpoint.num_image_tokens
    longest = max(len(task.longest_prompt(checkpoint)) for task in TASKS.values())
    options = options_of(inference, checkpoint, checkpoint.num_beams)
    size = size_of(inference, longest - num_image_tokens)
    return Room(
        weights=checkpoint.count_weights() * kind.itemsize,
        slot=shape_of(text, num_image_tokens, options, size).num_bytes(kind),
        left=left_bytes(card.total, card.free, inference.gpu_memory_utilization),
    )
