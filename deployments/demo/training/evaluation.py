"""How well a model answers unseen scenes: processor, `generate` with the saved settings, text.

`python -m deployments.demo.training.evaluation` prints the figures of a checkpoint.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from deployments.demo.scenes import Scene, draw_mixed_scene, random_size
from deployments.demo.training.scores import Figures, Scored
from deployments.demo.training.tasks import TASKS, Example, TrainingTask

CHECKPOINT = Path(__file__).parents[1] / "checkpoint"
NUM_SCENES = 256
UNSEEN_SIDE = 480  # pixels; canvases have about the area of this square
MAX_NEW_TOKENS = 256
BATCH_SIZE = 32

console = Console()
if not console.is_terminal:
    console = Console(width=120)
transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def main(
    checkpoint: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Folder of the checkpoint.")
    ] = CHECKPOINT,
    seed: Annotated[int, typer.Option(help="Decides the scenes; the report's are those of 0.")] = 0,
    scenes: Annotated[int, typer.Option(help="Scenes per task.")] = NUM_SCENES,
    length_penalty: Annotated[
        float | None, typer.Option(help="Instead of the checkpoint's own.")
    ] = None,
) -> None:
    """Print how well a checkpoint answers unseen scenes."""
    processor = Florence2Processor.from_pretrained(checkpoint)
    model = Florence2ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    if length_penalty is not None:
        model.generation_config.length_penalty = length_penalty
    console.print(table(evaluate(model, processor, unseen_scenes(scenes, seed))))


def unseen_scenes(
    num_scenes: int, seed: int = 0, size: tuple[int, int] | None = None
) -> list[Scene]:
    """Scenes that training cannot draw, of `size` (width, height) or of random sizes."""
    rng = random.Random(f"unseen {seed} {size}")
    return [draw_mixed_scene(rng, size or random_size(rng, UNSEEN_SIDE)) for _ in range(num_scenes)]


def evaluate(
    model: Florence2ForConditionalGeneration,
    processor: Florence2Processor,
    scenes: Sequence[Scene],
    tasks: Sequence[TrainingTask] = TASKS,
) -> dict[str, Figures]:
    """The figures of each task, by its marker."""
    return {task.marker: _figures(model, processor, scenes, task) for task in tasks}


def _figures(
    model: Florence2ForConditionalGeneration,
    processor: Florence2Processor,
    scenes: Sequence[Scene],
    task: TrainingTask,
) -> Figures:
    rng = random.Random(f"questions {task.marker}")
    questions = [task.ask(rng, scene) for scene in scenes]
    given = answers(model, processor, task, scenes, questions)
    return task.score(
        [
            Scored(question.answer, answer, any(word.turn for word in scene.words))
            for scene, question, answer in zip(scenes, questions, given, strict=True)
        ]
    )


def answers(
    model: Florence2ForConditionalGeneration,
    processor: Florence2Processor,
    task: TrainingTask,
    scenes: Sequence[Scene],
    questions: Sequence[Example],
) -> list[str]:
    """The model's answer to each question about its scene, location tokens included."""
    found: list[str] = []
    for start in range(0, len(scenes), BATCH_SIZE):
        images = [s.image for s in scenes[start : start + BATCH_SIZE]]
        texts = [task.marker + q.words for q in questions[start : start + BATCH_SIZE]]
        inputs = processor(text=texts, images=images, return_tensors="pt", padding=True)
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS)  # type: ignore[misc]
        decoded: list[str] = processor.batch_decode(ids, skip_special_tokens=False)  # type: ignore[no-untyped-call]
        found += [text.removeprefix("</s><s>").split("</s>")[0] for text in decoded]
    return found


def shortfalls(
    figures: dict[str, Figures], slack: float = 0.0, reached: dict[str, Figures] | None = None
) -> list[str]:
    """One line for each figure that is more than `slack` below what its task requires.

    Of a task that has `reached` less than that, no more is required.
    """
    return [
        f"{task.marker} {name} {figures[task.marker][name]:.3f} < {least:g}"
        for task in TASKS
        for name, aim in task.required.items()
        for least in [min(aim, reached[task.marker][name]) if reached else aim]
        if figures[task.marker][name] < least - slack
    ]


def table(figures: dict[str, Figures]) -> Table:
    """A row for each task."""
    shown = Table("task", "figures")
    for marker, values in figures.items():
        words = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in values.items()]
        shown.add_row(marker, ", ".join(words))
    return shown


if __name__ == "__main__":
    typer.run(main)
