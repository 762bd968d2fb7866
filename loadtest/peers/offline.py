"""The offline loop of transformers at batch 8: no server around it, its images in memory.

python -m loadtest.peers.offline FOLDER SECONDS     prints images a second of a folder's JPEGs
"""

import sys
import time
from pathlib import Path

from loadtest.bench.reference import BATCH, Reference
from loadtest.peers.peer import Job


def main(folder: Path, seconds: float) -> float:
    """Images a second of as many rounds through the folder as fill the time."""
    job = Job.read()
    reference = Reference(job.checkpoint, job.num_beams, job.num_tokens)
    pixels = [reference.pixels(file.read_bytes()) for file in sorted(folder.iterdir())]
    batches = [pixels[i : i + BATCH] for i in range(0, len(pixels), BATCH)]
    reference.generate(batches[0])
    began, num = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for batch in batches:
            num += len(reference.generate(batch))
    return num / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.stdout.write(f"{main(Path(sys.argv[1]), float(sys.argv[2]))}\n")
