"""All tasks at the same time through the batcher and the engine, each compared with `generate`.

    python -m tests.florence.engine.mixed_load [NUMBER]

Pictures, tasks, beams, limits, n-grams, scores and times are drawn; what the checkpoint answers
does not matter.
"""

import asyncio
import random
import sys
from dataclasses import dataclass
from itertools import cycle, islice, product

from rich.console import Console

from deployments.florence.batcher import Batcher
from deployments.florence.engine.engine import Engine
from deployments.florence.image_cache import ImageCache
from deployments.florence.open import open_engine
from deployments.florence.prompts import Prompts
from deployments.florence.sequence import Pixels, Sequence
from deployments.florence.tasks import TASKS, Task
from deployments.settings import DEMO_CHECKPOINT, InferenceSettings
from tests.florence.engine.pool import Answer, Pool, Way, colours, scene
from tests.florence.questions import input_of
from tests.florence.sequences import model

WHOLE = 600
CONCURRENCY = 16
LONGEST_PAUSE_S = 0.02
NUM_PICTURES = 12
NUM_KEPT = 4  # pictures in the cache: others are forgotten, and come again
SIZE = (640, 480)  # that the pictures are said to have
TEXTS = ("", "red circle", "square <and> circle", "the large, blue one", "Größe café 東京 🦒")
SETTINGS = InferenceSettings(
    max_batch_size=12,  # some of those in flight wait, and some are preempted
    prefill_batch_size=4,
    num_beams=3,
    max_new_tokens=40,
)
TURN_TOKENS = 10
CLOSE = 3e-5  # the demo's log-probabilities in fp32, of logits up to 24: docs/scores.md has why


@dataclass(frozen=True)
class Question:
    """A sequence of a task, which ends among others, and the answer to it alone."""

    task: str
    sequence: Sequence
    alone: Answer

    @property
    def is_answered(self) -> bool:
        """Whether all that is known of the sequence is as if it were alone."""
        ours, alone = self.sequence, self.alone
        if (ours.tokens, ours.truncated) != (alone.tokens, alone.truncated):
            return False
        if ours.scored is (ours.scores is None):
            return False
        return max(self.differences(), default=0.0) < CLOSE

    def differences(self) -> list[float]:
        """By how much each token's log-probability differs, if they are known."""
        if self.sequence.scores is None:
            return []
        pairs = zip(self.sequence.scores.logprobs, self.alone.logprobs, strict=True)
        return [abs(ours - alone) for ours, alone in pairs]

    @property
    def is_near_tie(self) -> bool:
        """Whether the last bits of a sum decide."""
        return not self.alone.is_clear


def mixed_load(count: int, seed: int = 0) -> list[Question]:
    """So many questions, each task and number of beams in turn, answered as one load."""
    rng = random.Random(f"mixed load {seed}")
    pool = Pool(DEMO_CHECKPOINT, scene)
    pictures = [picture(number) for number in range(NUM_PICTURES)]
    kinds = list(islice(cycle(product(TASKS.values(), (1, 2, 3))), count))
    rng.shuffle(kinds)
    sequences = [ask(rng, pictures, *kind) for kind in kinds]
    asyncio.run(serve(sequences, rng))
    return [
        Question(task.path, sequence, alone(pool, sequence))
        for (task, _), sequence in zip(kinds, sequences, strict=True)
    ]


def picture(number: int) -> Pixels:
    """A scene, or a ground with nothing on it."""
    size = model().checkpoint.image_size
    return colours(number, size) if number % 4 == 3 else scene(number, size)


def ask(rng: random.Random, pictures: list[Pixels], task: Task, num_beams: int) -> Sequence:
    """A question about one of the pictures, which may be known by a key."""
    number = rng.randrange(len(pictures))
    (x1, x2), (y1, y2) = (sorted(rng.sample(range(side), 2)) for side in SIZE)
    region = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    given = {"text_input": rng.choice(TEXTS), "region": region}
    fields = {name: given[name] for name in given if name in task.input.model_fields}
    prompts = Prompts(model().checkpoint, SETTINGS)
    return Sequence(
        pictures[number],
        prompts.encode(task, input_of(task, **fields), SIZE),
        num_beams=num_beams,
        max_new_tokens=rng.choice((None, None, 7, 16)),
        image_key=rng.choice((None, f"mine {number}", f"yours {number}")),
        no_repeat_ngram_size=rng.choice((None, None, 0, 2)),
        scored=rng.random() < 0.5,
    )


async def serve(sequences: list[Sequence], rng: random.Random) -> None:
    """Answer all, some at a time; each comes a little after the one before it has ended."""
    batcher = Batcher(
        engine(sequences), max_wait_s=0.001, max_queue=CONCURRENCY, turn_tokens=TURN_TOKENS
    )
    left = iter(sequences)

    async def client() -> None:
        for sequence in left:
            await asyncio.sleep(rng.uniform(0, LONGEST_PAUSE_S))
            await batcher.submit(sequence)

    try:
        await asyncio.gather(*(client() for _ in range(CONCURRENCY)))
    finally:
        batcher.close()


def engine(sequences: list[Sequence]) -> Engine:
    """One for all of them, which keeps the tokens of some pictures."""
    checkpoint = model().checkpoint
    num_bytes = 4 * model().florence.config.text_config.d_model * checkpoint.num_image_tokens
    longest = max(len(sequence.prompt) for sequence in sequences)
    return open_engine(model(), SETTINGS, longest, ImageCache(NUM_KEPT * num_bytes))


def alone(pool: Pool, sequence: Sequence) -> Answer:
    """The answer of `generate` with the same bounds."""
    rules = model().rules()
    ngram, longest = sequence.no_repeat_ngram_size, sequence.max_new_tokens
    way = Way(
        ngram=rules.ngram if ngram is None else ngram,
        forced=rules.forced_bos is not None,
        early_stopping=rules.early_stopping,
        length_penalty=rules.length_penalty,
        max_new_tokens=longest or SETTINGS.max_new_tokens,
    )
    return pool.ask(sequence, way, sequence.num_beams or 1)


def main(count: int = WHOLE) -> None:
    """Say how many of so many are answered as alone, and which are not."""
    load = mixed_load(count)
    different = [question for question in load if not question.is_answered]
    ties = sum(question.is_near_tie for question in different)
    console = Console()
    console.print(f"{count - len(different)} of {count} as alone; {ties} others are near-ties")
    for question in different:
        ours = question.sequence
        console.print(question.task, ours.num_beams, ours.tokens, ours.truncated, ours.scores)
        console.print(question.alone)
    sys.exit(len(different) > ties)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
