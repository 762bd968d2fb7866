"""The training loop: seeded, scheduled by steps, over one or more processes.

Every process draws its own scenes. Before each step, gradients are averaged over all processes, so
that all have the same weights. Progress goes to a callback.
"""

import math
import random
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from transformers import Florence2ForConditionalGeneration

from deployments.demo.training.data import Batch, draw_batch
from deployments.demo.training.losses import AuxiliaryHeads, answer_loss
from deployments.demo.training.model import (
    NUM_IMAGE_TOKENS,
    build_model,
    location_embeddings,
    location_ids,
)
from deployments.demo.training.tokenizer import build_tokenizer

STEPS_PER_SAVE = 100
LONGEST_PAUSE = timedelta(hours=1)  # one process evaluates, the others wait
SIGMAS = (10.0, 3.0)  # width of location targets in bins, at the first step and at the end
RATES = {"muon": 2.0, "adamw": 1.0}  # of the learning rate
LATE = 0.25  # part of the steps after which what is learned last is asked more often


@dataclass(frozen=True)
class TrainingConfig:
    """Everything on which the outcome depends."""

    seed: int
    num_steps: int
    num_processes: int
    batch_size: int  # scenes per process and step
    num_questions: int  # about each scene
    learning_rate: float
    num_warmup_steps: int = 200

    def rate_at(self, step: int) -> float:
        """The learning rate: a linear warm-up, then a cosine down to 2 %."""
        if step < self.num_warmup_steps:
            return self.learning_rate * (step + 1) / self.num_warmup_steps
        return self.learning_rate * (0.02 + 0.98 * _fall(step / self.num_steps))

    def sigma_at(self, step: int) -> float:
        """The width of location targets in bins."""
        return SIGMAS[1] + (SIGMAS[0] - SIGMAS[1]) * _fall(step / self.num_steps)

    def is_late(self, step: int) -> bool:
        """Whether boxes are learned, and what needs them is asked more often."""
        return step >= LATE * self.num_steps


Model = Florence2ForConditionalGeneration
OnStep = Callable[[int, dict[str, float], Model], None]


def train(config: TrainingConfig, state: Path, on_step: OnStep) -> None:
    """Train from scratch, or go on from the file `state` if the same run has written it.

    `on_step(step, losses, model)` is called after every step.

    Raises:
        ValueError: another run has written it.
    """
    if config.num_processes == 1:
        _train_one(config, 0, state, on_step)
        return
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = f"file://{folder}/rendezvous"
        workers = start_processes(
            _work, (config, state, rendezvous), nprocs=config.num_processes - 1, join=False
        )
        _join_and_train(config, 0, state, rendezvous, on_step)
        while not workers.join():
            pass


def _work(index: int, config: TrainingConfig, state: Path, rendezvous: str) -> None:
    _join_and_train(config, index + 1, state, rendezvous, lambda step, losses, model: None)


def _join_and_train(
    config: TrainingConfig, rank: int, state: Path, rendezvous: str, on_step: OnStep
) -> None:
    torch.distributed.init_process_group(
        "gloo",
        init_method=rendezvous,
        rank=rank,
        world_size=config.num_processes,
        timeout=LONGEST_PAUSE,
    )
    _train_one(config, rank, state, on_step)
    torch.distributed.destroy_process_group()


def _train_one(config: TrainingConfig, rank: int, state: Path, on_step: OnStep) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    tokenizer = build_tokenizer()
    locations = location_ids(tokenizer)
    model, heads = build_model(tokenizer), AuxiliaryHeads()
    parameters = [*model.parameters(), *heads.parameters()]
    optimizers = _optimizers(model, heads)
    learned = Learned(config, model, heads, optimizers)
    for step in range(learned.load(state), config.num_steps):
        rng = random.Random(f"training {config.seed} {step} {rank}")
        is_late = config.is_late(step)
        batch = draw_batch(rng, tokenizer, config.batch_size, config.num_questions, is_late)
        losses = _losses(model, heads, batch, locations, config.sigma_at(step), is_late)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        _average_gradients(parameters, config.num_processes)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for name, optimizer in optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = RATES[name] * config.rate_at(step)
            optimizer.step()
        if rank == 0 and (step + 1) % STEPS_PER_SAVE == 0:
            learned.save(state, step + 1)
        on_step(step + 1, {name: loss.item() for name, loss in losses.items()}, model)


def _optimizers(model: Model, heads: AuxiliaryHeads) -> dict[str, torch.optim.Optimizer]:
    """Muon for hidden matrices, which makes their updates orthogonal; AdamW for the rest."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    hidden = [p for p in model.parameters() if p.ndim == 2 and id(p) not in embeddings]
    rest = [p for p in model.parameters() if p.ndim != 2 or id(p) in embeddings]
    return {
        "muon": torch.optim.Muon(hidden, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        "adamw": torch.optim.AdamW(
            [*rest, *heads.parameters()], betas=(0.9, 0.98), weight_decay=0.02, fused=True
        ),
    }


@dataclass(frozen=True)
class Learned:
    """All that changes from step to step, in one file for a run that is interrupted."""

    config: TrainingConfig
    model: Model
    heads: AuxiliaryHeads
    optimizers: dict[str, torch.optim.Optimizer]

    def load(self, file: Path) -> int:
        """Go on from `file`; the number of steps that are done, 0 without it."""
        if not file.exists():
            return 0
        saved = torch.load(file, weights_only=True)
        if saved["config"] != asdict(self.config):
            raise ValueError(f"{file} is of another run ({saved['config']}): move it away")
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        step: int = saved["step"]
        return step

    def save(self, file: Path, step: int) -> None:
        states = {name: part.state_dict() for name, part in self._parts().items()}
        fresh = file.with_suffix(".new")
        torch.save({"config": asdict(self.config), "step": step, **states}, fresh)
        fresh.replace(file)

    def _parts(self) -> dict[str, Any]:
        return {"model": self.model, "heads": self.heads, **self.optimizers}


def _losses(
    model: Model,
    heads: AuxiliaryHeads,
    batch: Batch,
    locations: slice,
    sigma: float,
    is_late: bool,
) -> dict[str, Tensor]:
    """All losses of one batch by name: the answer's, and those of the auxiliary heads."""
    images = model.model.get_image_features(batch.pixel_values).pooler_output
    num_questions = len(batch.input_ids) // len(images)
    words = model.get_input_embeddings()(batch.input_ids[:, NUM_IMAGE_TOKENS:])
    outputs = model.model(
        inputs_embeds=torch.cat([images.repeat_interleave(num_questions, dim=0), words], dim=1),
        attention_mask=batch.attention_mask,
        decoder_input_ids=batch.decoder_input_ids,
        use_cache=False,
    )
    states = outputs.encoder_last_hidden_state[::num_questions]  # of each scene's first question
    cells = states[:, 1:NUM_IMAGE_TOKENS]  # the first one is the mean
    embeddings = location_embeddings(model, locations)
    logits = model.lm_head(outputs.last_hidden_state)
    return {
        "answer": answer_loss(logits, batch, locations, sigma, is_late),
        **heads.losses(images[:, 1:], cells, batch, embeddings, sigma),
    }


def _average_gradients(parameters: list[nn.Parameter], num_processes: int) -> None:
    """Replace every gradient by its mean over all processes."""
    if num_processes == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.view(-1) for g in gradients])
    torch.distributed.all_reduce(flat)
    means = torch.split(flat / num_processes, [g.numel() for g in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))


def _fall(progress: float) -> float:
    """A cosine from 1 to 0."""
    return 0.5 + 0.5 * math.cos(math.pi * progress)
