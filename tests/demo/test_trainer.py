"""A training run that is interrupted goes on as if it had not been."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from deployments.demo.training import trainer
from deployments.demo.training.trainer import Model, TrainingConfig, train

CONFIG = TrainingConfig(
    seed=1, num_steps=4, num_processes=1, batch_size=1, num_questions=2, learning_rate=2e-3
)


class Interrupted(Exception):
    """The run was ended."""


def trained(state: Path, config: TrainingConfig = CONFIG, until: int | None = None) -> list[Tensor]:
    """The weights after the last step; the run is interrupted after step `until`."""
    weights: list[Tensor] = []

    def on_step(step: int, losses: dict[str, float], model: Model) -> None:
        if step == until:
            raise Interrupted
        if step == config.num_steps:
            weights.extend(parameter.detach().clone() for parameter in model.parameters())

    train(config, state, on_step)
    return weights


def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are those of a run that was not interrupted, to the last bit."""
    monkeypatch.setattr(trainer, "STEPS_PER_SAVE", 2)
    with pytest.raises(Interrupted):
        trained(tmp_path / "state.pt", until=3)
    resumed = trained(tmp_path / "state.pt")
    whole = trained(tmp_path / "other.pt")
    assert all(map(torch.equal, resumed, whole))
    assert len(resumed) == len(whole) > 0


def test_the_state_of_another_run_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message names the file."""
    monkeypatch.setattr(trainer, "STEPS_PER_SAVE", 2)
    trained(tmp_path / "state.pt")
    other = TrainingConfig(**{**vars(CONFIG), "seed": 2})
    with pytest.raises(ValueError, match=r"state\.pt is of another run"):
        trained(tmp_path / "state.pt", other)
