"""Random adapters, and for each the checkpoint that it makes when it is merged into its base."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deployments.florence.engine.low_rank import AdapterFactors, attach
from tests.florence.engine.checkpoints import Kind, random_checkpoint
from tests.florence.engine.pool import Answer, Pool, Way, colours, loaded

LOUDNESS = 0.5  # of what an adapter adds, in the size of the weights
KINDS = {  # which projections an adapter changes, and its rank
    "words": (r"language_model.*(q_proj|v_proj)$", 4),
    "all": (r"language_model.*(_proj|fc1|fc2)$", 3),
    "eyes": (r"(vision_tower.*(qkv|\.proj|fc2)|image_projection|layers.0.fc1)$", 2),
    "head": (r"(lm_head|decoder.*(out_proj|k_proj))$", 5),
}


@dataclass(frozen=True)
class RandomFactors:
    """Of one module: down (rank, in), up (out, rank)."""

    down: NDArray[np.float32]
    up: NDArray[np.float32]
    scale: float

    def product(self) -> torch.Tensor:
        """What it adds to the weight: (out, in)."""
        return torch.from_numpy(self.scale * self.up @ self.down)


def random_factors(florence: Any, pattern: str, rank: int, seed: int) -> dict[str, RandomFactors]:
    """Factors for the projections whose names the pattern finds; they change answers."""
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        return generator.standard_normal(shape).astype(np.float32)

    return {
        name: RandomFactors(
            normal(rank, module.in_features),
            normal(module.out_features, rank),
            LOUDNESS * float(module.weight.detach().std()) / rank**0.5,
        )
        for name, module in florence.named_modules()
        if isinstance(module, nn.Linear) and re.search(pattern, name)
    }


@torch.no_grad()
def merged(florence: Any, factors: Mapping[str, RandomFactors]) -> None:
    """Add the adapter to the weights; a head that is tied to the embeddings gets its own."""
    florence.lm_head.weight = nn.Parameter(florence.lm_head.weight.clone())
    florence.config.tie_word_embeddings = False
    for name, pair in factors.items():
        florence.get_submodule(name).weight += pair.product()


class AdaptedPool:
    """A pool whose model has the adapters of `KINDS` beside it, and those with each merged."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.base = Pool(random_checkpoint(kind, folder / "base"), colours)
        florence = self.base.model.florence
        adapters: dict[str, AdapterFactors] = {}
        self._alone = {"": self.base}
        for seed, (name, (pattern, rank)) in enumerate(KINDS.items()):
            factors = random_factors(florence, pattern, rank, seed)
            adapters[name] = factors
            self._alone[name] = Pool(merged_checkpoint(kind, folder / name, factors), colours)
        self.base.adapters = attach(florence, adapters)
        self.names = list(self._alone)

    def answer(self, adapter: str, number: int, way: Way, num_beams: int) -> Answer:
        """The answer of `generate`, by the base with the adapter merged, to a sequence alone."""
        return self._alone[adapter].answer(number, way, num_beams)


def merged_checkpoint(kind: Kind, folder: Path, factors: Mapping[str, RandomFactors]) -> Path:
    """The checkpoint of this kind with an adapter merged into it."""
    florence = loaded(random_checkpoint(kind, folder)).florence
    merged(florence, factors)
    florence.save_pretrained(folder)
    return folder
