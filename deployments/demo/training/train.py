"""Train the demo checkpoint from scratch: `python -m deployments.demo.training.train`.

Writes the checkpoint and `report.json`: how it was made, and how well it does.
The same seed, steps and processes give the same scenes in the same order.
"""

import json
import os
import platform
import resource
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from deployments.demo.training.evaluation import (
    CHECKPOINT,
    NUM_SCENES,
    console,
    evaluate,
    shortfalls,
    table,
    unseen_scenes,
)
from deployments.demo.training.model import build_processor, save_checkpoint
from deployments.demo.training.scores import Figures
from deployments.demo.training.tasks import TASKS
from deployments.demo.training.tokenizer import build_tokenizer
from deployments.demo.training.trainer import STEPS_PER_SAVE, Model, TrainingConfig, train

NUM_STEPS = 7000
NUM_VALIDATION_SCENES = 32
SHOWN_SIZE = (640, 480)

FIGURES_BEGIN, FIGURES_END = "<!-- figures: begin -->\n", "<!-- figures: end -->"


def main(
    seed: Annotated[int, typer.Option(help="Decides the weights at the start and the scenes.")] = 1,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = NUM_STEPS,
    processes: Annotated[int, typer.Option(help="Processes that train together.")] = 2,
    batch: Annotated[int, typer.Option(help="Scenes per process and step.")] = 12,
    questions: Annotated[int, typer.Option(help="Questions about each scene.")] = 2,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    validate_every: Annotated[
        int, typer.Option("--glance-every", help="Steps between short evaluations.")
    ] = 1000,
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")] = CHECKPOINT,
) -> None:
    """Train the demo checkpoint, save it, evaluate what was saved and write the report.

    A run that was interrupted goes on where it was when it is started again.
    """
    config = TrainingConfig(seed, steps, processes, batch, questions, rate)
    run = TrainingRun(config, out, validate_every)
    with run.progress:
        train(config, run.state, run.on_step)
    report = run.finish()
    console.print(table(report["evaluation"]["tasks"]))
    for line in shortfalls(report["evaluation"]["tasks"]):
        console.print(f"[red]below what is required: {line}")


class TrainingRun:
    """Progress, learning curve and best snapshot of one run of the recipe."""

    def __init__(self, config: TrainingConfig, out: Path, validate_every: int) -> None:
        self.config, self.out, self.validate_every = config, out, validate_every
        self.processor = build_processor(build_tokenizer())
        self.validation_scenes = unseen_scenes(NUM_VALIDATION_SCENES, seed=config.seed + 1)
        self.curve: list[dict[str, Any]] = []
        out.mkdir(parents=True, exist_ok=True)
        self.state = out / "training-state.pt"
        self.journal = out / "training-journal.json"
        self.spent = {"minutes": 0.0, "cpu_minutes": 0.0}
        self._resume()
        self.started_s = time.monotonic()
        columns = TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.progress = Progress(
            *columns, TextColumn("{task.fields[loss]}"), console=console,
            disable=not console.is_terminal,
        )  # fmt: skip
        self.bar = self.progress.add_task("train", total=config.num_steps, loss="")

    def on_step(self, step: int, losses: dict[str, float], model: Model) -> None:
        """Show progress; every `validate_every` steps, evaluate, and save a better model."""
        line = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        self.progress.update(self.bar, completed=step, loss=line)
        if not console.is_terminal and step % 100 == 0:
            console.print(f"{self.minutes:5.1f} min  step {step}  {line}", soft_wrap=True)
        if step == self.config.num_steps:
            save_checkpoint(model, self.processor, self.out)
        elif step % self.validate_every == 0:
            self._validate(step, model)
        if step % STEPS_PER_SAVE == 0:
            self._write_journal()

    @property
    def minutes(self) -> float:
        return round(self.spent["minutes"] + (time.monotonic() - self.started_s) / 60, 1)

    @property
    def cpu_minutes(self) -> float:
        """Of all processes, each of which does the same."""
        return round(self.spent["cpu_minutes"] + self.config.num_processes * _cpu_minutes(), 1)

    def _resume(self) -> None:
        """What the journal of an interrupted run says: its curve, and the time it took."""
        if self.state.exists() and self.journal.exists():
            saved = json.loads(self.journal.read_text())
            self.curve, self.spent = saved["curve"], saved["spent"]

    def _write_journal(self) -> None:
        spent = {"minutes": self.minutes, "cpu_minutes": self.cpu_minutes}
        self.journal.write_text(json.dumps({"curve": self.curve, "spent": spent}))

    def finish(self) -> dict[str, Any]:
        """Load what was saved, evaluate it, and write the report."""
        minutes, cpu_minutes = self.minutes, self.cpu_minutes
        processor = Florence2Processor.from_pretrained(self.out)
        model = Florence2ForConditionalGeneration.from_pretrained(self.out, dtype=torch.float32)
        unseen = evaluate(model, processor, unseen_scenes(NUM_SCENES))
        shown = evaluate(model, processor, unseen_scenes(NUM_SCENES, size=SHOWN_SIZE))
        report = {
            "command": _command(self.config),
            "date": datetime.now(UTC).date().isoformat(),
            "seed": self.config.seed,
            "steps": self.config.num_steps,
            "scenes_per_step": self.config.num_processes * self.config.batch_size,
            "questions_per_scene": self.config.num_questions,
            "minutes": minutes,
            "cpu_minutes": cpu_minutes,
            "cores": os.cpu_count(),
            "parameters": model.num_parameters(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "evaluation": {"scenes": NUM_SCENES, "tasks": _rounded(unseen)},
            "evaluation_640x480": {"scenes": NUM_SCENES, "tasks": _rounded(shown)},
            "curve": self.curve,
        }
        (self.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        write_readme(self.out.parent / "README.md", report)
        for file in (self.state, self.journal):
            file.unlink(missing_ok=True)
        return report

    def _validate(self, step: int, model: Model) -> None:
        model.eval()  # type: ignore[no-untyped-call]
        figures = _rounded(evaluate(model, self.processor, self.validation_scenes))
        model.train()
        self.curve.append({"step": step, "minutes": self.minutes, "tasks": figures})
        console.print(f"{self.minutes:5.1f} min  step {step}")
        console.print(table(figures))


def write_readme(readme: Path, report: dict[str, Any]) -> None:
    """Put the figures of a run between the marks of the README, where there is one."""
    if readme.exists():
        before, rest = readme.read_text().split(FIGURES_BEGIN)
        _, after = rest.split(FIGURES_END)
        readme.write_text(f"{before}{figures_of(report)}{after}")


def figures_of(report: dict[str, Any]) -> str:
    """The part of the README that a run writes, its marks included."""
    tasks, questions = report["evaluation"]["tasks"], report["questions_per_scene"]
    rows = [
        f"| `{task.marker}` | {_written(tasks[task.marker], task.required)} |" for task in TASKS
    ]
    lines = [
        f"{FIGURES_BEGIN}```",
        report["command"],
        "```",
        "",
        f"One run with seed {report['seed']}: {report['steps']} steps of "
        f"{report['scenes_per_step']} scenes with "
        f"{questions} question{'s' * (questions != 1)} each, "
        f"{report['minutes']} minutes on {report['cores']} cores shared with other work, "
        f"{report['cpu_minutes']} CPU minutes, on {report['date']}; "
        f"{report['parameters'] / 1e6:.2f} million parameters.",
        "",
        "| task | figures (aim) |",
        "|---|---|",
        *rows,
        "",
        *_shortfalls(tasks),
        FIGURES_END,
    ]
    return "\n".join(lines)


def _shortfalls(tasks: dict[str, Figures]) -> list[str]:
    """What the run did not reach, and how it came there."""
    short = shortfalls(tasks)
    if not short:
        return []
    return ["Below what was aimed at:", "", *(f"- `{line}`" for line in short), ""]


def _written(figures: Figures, required: Figures) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.3f}"
        + (f" (≥ {required[name]:.2f})" if name in required else "")
        for name, value in figures.items()
    )


def _command(config: TrainingConfig) -> str:
    return (
        f"python -m deployments.demo.training.train --seed {config.seed} "
        f"--steps {config.num_steps} --processes {config.num_processes} "
        f"--batch {config.batch_size} "
        f"--questions {config.num_questions} --rate {config.learning_rate}"
    )


def _cpu_minutes() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) / 60


def _rounded(figures: dict[str, Figures]) -> dict[str, Figures]:
    return {m: {name: round(v, 3) for name, v in f.items()} for m, f in figures.items()}


if __name__ == "__main__":
    typer.run(main)
