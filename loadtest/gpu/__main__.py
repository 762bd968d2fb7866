"""`make bench-gpu`: the engine with Florence-2-large's shapes on a GPU, against what it can do.

    python -m loadtest.gpu [--seconds 420]      a CUDA device, torch ≥ 2.11, transformers ≥ 5.17
    python -m loadtest.gpu --dry-run            a small model on a CPU, to see that all of it runs

The weights are random, made on the device in half precision. The engine must say what transformers
says, then both are measured, and what the card itself can do, in one run.
"""

import argparse
import sys
from dataclasses import replace

import torch
import transformers
from transformers.utils import logging as transformers_logging

from deployments.errors import SetupError
from loadtest import figures
from loadtest.gpu.bench import DRY, FULL, Bench

NEEDED = {"torch": (2, 11), "transformers": (5, 17)}


def main() -> int:
    """Check, measure, print the tables, write out/bench/gpu.json; the exit status."""
    asked = arguments()
    try:
        require(asked.dry_run)
    except SetupError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(1)  # all that counts happens on the device
    plan = replace(DRY if asked.dry_run else FULL, seconds=asked.seconds)
    bench = Bench(plan, torch.device("cpu" if asked.dry_run else "cuda"))
    bench.run()
    file = figures.write("gpu-dry-run" if asked.dry_run else "gpu", bench.report.values)
    sys.stdout.write(f"Figures: {file}\n")
    return 0 if bench.report.is_right else 1


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m loadtest.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=420.0, help="time for all of it")
    parser.add_argument("--dry-run", action="store_true", help="a small model on a CPU")
    return parser.parse_args()


def require(dry_run: bool) -> None:
    """Do nothing where it can run.

    Raises:
        SetupError: a library is too old, or there is no GPU.
    """
    for module in (torch, transformers):
        name, found = module.__name__, module.__version__
        if tuple(map(int, found.split(".")[:2])) < NEEDED[name]:
            wanted = ".".join(map(str, NEEDED[name]))
            raise SetupError(f"{name} is {found}: install {wanted} or newer")
    if not dry_run and not torch.cuda.is_available():
        raise SetupError("no CUDA device is visible: --dry-run shows all of it on a CPU")


if __name__ == "__main__":
    sys.exit(main())
