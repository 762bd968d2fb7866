"""How well a model answers unseen scenes: processor, `generate` with the saved settings, text."""

import random
from collections.abc import Sequence

import torch
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from deployments.demo.scenes import Scene, draw_mixed_scene, random_size
from deployments.demo.training.scores import Figures, Scored
from deployments.demo.training.tasks import TASKS, Example, TrainingTask

UNSEEN_SIDE = 480  # pixels; canvases have about the area of this square
MAX_NEW_TOKENS = 256
BATCH_SIZE = 32


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
