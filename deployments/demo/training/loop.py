"""The training loop: seeded, scheduled by steps, over one or more processes.

Every process draws its own scenes and averages gradients with the others before each step, so that
all hold the same weights.
Knows nothing of files; progress goes to a callback.
"""

import math
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from transformers import Florence2ForConditionalGeneration

from deployments.demo.training.architecture import (
    NUM_IMAGE_TOKENS,
    build_model,
    location_embeddings,
    location_ids,
)
from deployments.demo.training.batch import Batch, draw_batch
from deployments.demo.training.losses import CellHeads, answer_loss
from deployments.demo.training.tokenizer import build_tokenizer

SIGMAS = (10.0, 3.0)  # width of location targets in bins, at the first step and at the end


@dataclass(frozen=True)
class Plan:
    """Everything that decides the outcome of a training run."""

    seed: int
    num_steps: int
    num_processes: int
    batch_size: int  # scenes per process and step
    learning_rate: float
    num_warmup_steps: int = 100

    def rate_at(self, step: int) -> float:
        """The learning rate: a linear warm-up, then a cosine down to 2 %."""
        if step < self.num_warmup_steps:
            return self.learning_rate * (step + 1) / self.num_warmup_steps
        return self.learning_rate * (0.02 + 0.98 * _fall(step / self.num_steps))

    def sigma_at(self, step: int) -> float:
        """The width of location targets in bins."""
        return SIGMAS[1] + (SIGMAS[0] - SIGMAS[1]) * _fall(step / self.num_steps)


Model = Florence2ForConditionalGeneration
Observer = Callable[[int, dict[str, float], Model], None]


def train(plan: Plan, observe: Observer) -> None:
    """Train from scratch; `observe(step, losses, model)` sees every step in this process."""
    if plan.num_processes == 1:
        _train_one(plan, 0, observe)
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting_place = f"file://{folder}/meeting-place"
        helpers = start_processes(
            _help, (plan, meeting_place), nprocs=plan.num_processes - 1, join=False
        )
        _join_and_train(plan, 0, meeting_place, observe)
        while not helpers.join():
            pass


def _help(index: int, plan: Plan, meeting_place: str) -> None:
    _join_and_train(plan, index + 1, meeting_place, lambda step, losses, model: None)


def _join_and_train(plan: Plan, rank: int, meeting_place: str, observe: Observer) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=meeting_place, rank=rank, world_size=plan.num_processes
    )
    _train_one(plan, rank, observe)
    torch.distributed.destroy_process_group()


def _train_one(plan: Plan, rank: int, observe: Observer) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(plan.seed)
    tokenizer = build_tokenizer()
    locations = location_ids(tokenizer)
    model, heads = build_model(tokenizer), CellHeads()
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    for step in range(plan.num_steps):
        rng = random.Random(f"training {plan.seed} {step} {rank}")
        batch = draw_batch(rng, tokenizer, plan.batch_size)
        losses = _losses(model, heads, batch, locations, plan.sigma_at(step))
        optimizer.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        _average_gradients(parameters, plan.num_processes)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = plan.rate_at(step)
        optimizer.step()
        observe(step + 1, {name: loss.item() for name, loss in losses.items()}, model)


def _losses(
    model: Model, heads: CellHeads, batch: Batch, locations: slice, sigma: float
) -> dict[str, Tensor]:
    """All losses of one batch by name, the answer's and those of the throw-away heads."""
    outputs = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        pixel_values=batch.pixel_values,
        decoder_input_ids=batch.decoder_input_ids,
        use_cache=False,
    )
    cells = outputs.encoder_last_hidden_state[:, 1:NUM_IMAGE_TOKENS]  # the first one is the mean
    embeddings = location_embeddings(model, locations)
    return {
        "answer": answer_loss(outputs.logits, batch, locations, sigma),
        **heads.losses(cells, batch.cells, embeddings, sigma),
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
