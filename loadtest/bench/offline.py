"""The offline limit: a plain loop of transformers' `generate` at batch 8, images in memory.

python -m loadtest.bench.offline CHECKPOINT TOKENS BEAMS FOLDER     prints images a second
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtest.bench.reference import BATCH, Reference

SECONDS = 15.0


def images_per_s(
    checkpoint: Path, num_tokens: int | None, num_beams: int | None, jpegs: Sequence[bytes]
) -> float:
    """Measured in a process of its own; None leaves length or beams to the checkpoint."""
    with TemporaryDirectory() as folder:
        for number, jpeg in enumerate(jpegs):
            (Path(folder) / f"{number:03}.jpg").write_bytes(jpeg)
        arguments = [str(checkpoint), str(num_tokens or 0), str(num_beams or 0), folder]
        command = [sys.executable, "-m", "loadtest.bench.offline", *arguments]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def measure(checkpoint: Path, num_tokens: int, num_beams: int, folder: Path) -> float:
    """Images a second of as many rounds through the folder as fill the time."""
    reference = Reference(checkpoint, num_beams or None, num_tokens or None)
    pixels = [reference.pixels(file.read_bytes()) for file in sorted(folder.iterdir())]
    batches = [pixels[i : i + BATCH] for i in range(0, len(pixels), BATCH)]
    reference.generate(batches[0])
    began, num = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        for batch in batches:
            num += len(reference.generate(batch))
    return num / (time.perf_counter() - began)


if __name__ == "__main__":
    path, tokens, beams, images = sys.argv[1:]
    sys.stdout.write(f"{measure(Path(path), int(tokens), int(beams), Path(images))}\n")
