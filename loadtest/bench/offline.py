"""The offline limit: a plain loop of transformers' `generate`, no service around it.

python -m loadtest.bench.offline CHECKPOINT TOKENS BATCH SECONDS     prints images a second
"""

import random
import sys
import time

import numpy as np

from deployments.demo.scenes import draw_scene
from deployments.florence.generate import Generate
from deployments.florence.model import Model
from deployments.florence.sequence import Sequence
from deployments.florence.tasks import TASKS
from deployments.images.decode import to_pixels
from deployments.settings import InferenceSettings, ModelSettings


def main(path: str, num_tokens: int, batch_size: int, seconds: float) -> float:
    """Images a second of a loop that runs for about `seconds`, with images ready in memory."""
    inference = InferenceSettings(
        max_batch_size=batch_size, max_new_tokens=num_tokens, min_new_tokens=num_tokens
    )
    model = Model(ModelSettings(path=path, device="cpu", torch_threads=1))
    backend = Generate(model, inference)
    prompt = model.checkpoint.prompt(TASKS["region-proposal"].sentence)
    scene = draw_scene(random.Random(0), (512, 512)).image
    pixels = to_pixels(scene, model.checkpoint.image_size, model.checkpoint.resample)
    batch = [Sequence(np.ascontiguousarray(pixels), prompt)] * batch_size
    backend.answers(batch)
    began, num = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        backend.answers(batch)
        num += batch_size
    return num / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.stdout.write(
        f"{main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))}\n"
    )
