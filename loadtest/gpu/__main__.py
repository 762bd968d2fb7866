"""`make bench-gpu`: the engine with Florence-2-large's shapes on a GPU, against what it can do.

    python -m loadtest.gpu [--seconds 420]      Python ≥ 3.11, torch ≥ 2.11, transformers ≥ 5.17
    python -m loadtest.gpu --dry-run            a small model on a CPU, to see that all of it runs

The weights are random, made on the device in half precision. The engine must say what transformers
says, then both are measured, and what the card itself can do, in one run.
"""

import argparse
import sys
from importlib.metadata import PackageNotFoundError, version

NEEDED = {"torch": (2, 11), "transformers": (5, 17)}
PYTHON = (3, 11)


def main() -> int:
    """Check, measure, print the tables, write out/bench/gpu.json; the exit status."""
    asked = arguments()
    if missing := lacking():
        return refuse(missing)
    from loadtest.gpu import bench  # needs what was found just now

    if not asked.dry_run and not bench.has_gpu():
        return refuse("no CUDA device is visible: --dry-run shows all of it on a CPU")
    return bench.run(asked.dry_run, asked.seconds)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m loadtest.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=420.0, help="time for all of it")
    parser.add_argument("--dry-run", action="store_true", help="a small model on a CPU")
    return parser.parse_args()


def refuse(reason: str) -> int:
    sys.stderr.write(f"{reason}\n")
    return 2


def lacking() -> str:
    """What this Python lacks, and what to do; empty when it has all."""
    if sys.version_info[:2] < PYTHON:
        return f"this is Python {sys.version.split()[0]}: use {dotted(PYTHON)} or newer"
    for name, least in NEEDED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            return f"{sys.executable} has no {name}: pip install torch transformers"
        if tuple(map(int, found.split(".")[:2])) < least:
            return f"{name} is {found}: install {dotted(least)} or newer"
    return ""


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    sys.exit(main())
