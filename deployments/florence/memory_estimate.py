"""How many sequences a GPU has memory for, without loading the model."""

from dataclasses import dataclass

import torch
from transformers import Florence2Config

from deployments.florence.checkpoint import Checkpoint
from deployments.florence.engine.build import shape_of
from deployments.florence.engine.device import available_bytes
from deployments.florence.model import dtype
from deployments.florence.open import engine_config
from deployments.florence.prompts import Prompts
from deployments.florence.tasks import TASKS
from deployments.settings import InferenceSettings, ModelSettings


@dataclass(frozen=True)
class GpuMemory:
    """A GPU, and how many of its bytes are free."""

    name: str
    total: int
    free: int


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of the weights, of the image cache and of one sequence, and how many are available."""

    weights: int
    image_cache: int
    sequence: int
    available: int

    @property
    def max_batch_size(self) -> int:
        """How many sequences fit; the encoder's passes take some of the memory too."""
        return max(0, self.available - self.weights - self.image_cache) // self.sequence


def first_gpu() -> GpuMemory | None:
    """The GPU that the model would run on."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return GpuMemory(torch.cuda.get_device_name(), total, free)


def estimate_memory(
    gpu: GpuMemory, checkpoint: Checkpoint, model: ModelSettings, inference: InferenceSettings
) -> MemoryEstimate:
    """What fits on `gpu`, by the engine's own arithmetic.

    Raises:
        SetupError: the checkpoint is not complete.
    """
    kind = dtype(model.dtype, torch.device("cuda"))
    text = Florence2Config.from_pretrained(checkpoint.folder, local_files_only=True).text_config
    prompts = Prompts(checkpoint, inference)
    longest = max(len(prompts.longest(task)) for task in TASKS.values())
    config = engine_config(inference, checkpoint, longest, checkpoint.num_beams)
    return MemoryEstimate(
        weights=checkpoint.count_weights() * kind.itemsize,
        image_cache=inference.image_cache_bytes,
        sequence=shape_of(text, checkpoint.num_image_tokens, config).num_bytes(kind),
        available=available_bytes(gpu.total, gpu.free, inference.gpu_memory_utilization),
    )
