"""The backend that asks transformers: the engine's measure and its fallback.

A whole batch goes through `generate`, so nobody joins on the way and the longest answer holds up
all; what it says is by definition right.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from deployments.florence.backend import Job
from deployments.florence.model import Model
from deployments.florence.request import Query, Tokens
from deployments.settings import InferenceSettings


class Generate:
    """A `Backend` that works on up to `max_batch_size` queries in one pass."""

    def __init__(self, model: Model, settings: InferenceSettings) -> None:
        self._model = model
        self._num_slots = settings.max_batch_size
        self._settings = settings
        self._jobs: list[Job[Query]] = []

    @property
    def num_slots(self) -> int:
        """Most queries of one pass."""
        return self._num_slots

    @property
    def micro_batch(self) -> int:
        """As many: all begin together."""
        return self._num_slots

    def admit(self, jobs: Sequence[Job[Query]]) -> None:
        """Let `jobs` be part of the next pass."""
        self._jobs += jobs

    def step(self) -> list[tuple[Job[Query], Tokens]]:
        """One pass of all jobs."""
        jobs, self._jobs = self._jobs, []
        groups = grouped(jobs)
        return [pair for group in groups for pair in zip(group, self._pass(group), strict=True)]

    def suspend(self, _job: Job[Query]) -> bool:
        """Impossible: a pass cannot be interrupted."""
        return False

    def drop(self, job: Job[Query]) -> None:
        """Forget a job that has not had its pass."""
        self._jobs = [each for each in self._jobs if each is not job]

    def reset(self) -> None:
        """Forget every job."""
        self._jobs = []

    def progress(self, _job: Job[Query]) -> Tokens | None:
        """Nothing: `generate` tells only at its end."""
        return None

    def warm_up(self, query: Query) -> None:
        """Run `query` alone and as a full batch, so that no client waits for it."""
        for size in {1, self._num_slots}:
            jobs = [Job(query) for _ in range(size)]
            self._pass(jobs, max_new_tokens=4, min_new_tokens=0)

    def answers(self, queries: Sequence[Query]) -> list[Tokens]:
        """The token ids of each answer, from its start token on."""
        jobs = [Job(query) for query in queries]
        self.admit(jobs)
        answers = dict(self.step())
        return [answers[job] for job in jobs]

    @torch.inference_mode()
    def _pass(self, jobs: Sequence[Job[Query]], **changed: Any) -> list[Tokens]:
        """The token ids of each answer, from its start token on, padding left out."""
        queries = [job.item for job in jobs]
        ids, mask = self._model.padded([query.prompt for query in queries])
        answers = self._model.florence.generate(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=self._model.normalised([query.pixels for query in queries]),
            stopping_criteria=StoppingCriteriaList([Unwanted(jobs)]),
            **options(self._model, self._settings, queries[0]) | changed,
        )
        pad = self._model.pad
        return [tuple(id_ for id_ in row if id_ != pad) for row in answers.tolist()]


class Unwanted(StoppingCriteria):
    """Ends the rows that nobody wants any more; what the others say does not change."""

    def __init__(self, jobs: Sequence[Job[Query]]) -> None:
        self._jobs = jobs
        self._left: set[int] = set()

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_more: Any) -> torch.BoolTensor:
        """Which sequences end here: a flag for each of a row's candidates, row by row."""
        shape = len(self._jobs), len(input_ids) // len(self._jobs)  # (rows, candidates)
        ended = torch.zeros(shape, dtype=torch.bool, device=input_ids.device)
        self._left |= {n for n, job in enumerate(self._jobs) if not job.is_wanted()}
        ended[sorted(self._left)] = True
        return ended.flatten()  # type: ignore[return-value]


def grouped(jobs: Sequence[Job[Query]]) -> list[list[Job[Query]]]:
    """The jobs by their bounds, which are those of all rows of a pass."""
    found: dict[object, list[Job[Query]]] = {}
    for job in jobs:
        found.setdefault((job.item.num_beams, job.item.max_new_tokens), []).append(job)
    return list(found.values())


def beams(num_beams: int | None) -> dict[str, Any]:
    """What `generate` is asked for when a query or the settings name the beams."""
    if num_beams is None:
        return {}
    return {"num_beams": num_beams} | ({"early_stopping": False} if num_beams == 1 else {})


def options(model: Model, settings: InferenceSettings, query: Query) -> dict[str, Any]:
    """What is asked of `generate` beyond the checkpoint's own generation config."""
    wanted = query.max_new_tokens or settings.max_new_tokens
    longest = min(wanted, settings.max_new_tokens, model.checkpoint.max_positions - 1)
    chosen = {
        "max_new_tokens": longest,
        "min_new_tokens": min(settings.min_new_tokens, longest),
        "do_sample": False,
    }
    return chosen | beams(query.num_beams or settings.num_beams)
