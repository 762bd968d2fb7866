"""The benchmark for a GPU: all of it runs on a CPU, and needs torch and transformers alone."""

import json
import os
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from loadtest.gpu.floor import H200, work
from loadtest.gpu.model import LARGE
from loadtest.gpu.parity import overlap
from loadtest.gpu.report import Budget, shown

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NEEDED = ("torch", "transformers")
COMMAND_LINE = "typer"  # transformers' own needs it, and brings pydantic and rich along
OURS = ("ray", "pydantic", "fastapi", "psutil", "PIL", "rich", "deployments.settings")


def brought_along(names: tuple[str, ...]) -> dict[str, Distribution]:
    """These distributions and all that they need to be imported here."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found or name == COMMAND_LINE:
            continue
        found[name] = distribution(name)
        needs = map(Requirement, found[name].requires or ())
        waiting += [
            need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})
        ]
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages as pip would make it for torch and transformers."""
    folder = tmp_path_factory.mktemp("packages")
    for package in brought_along(NEEDED).values():
        tops = {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}
        for top in tops:
            if not (folder / top).exists():
                (folder / top).symlink_to(str(package.locate_file(top)))
    return folder


def run(bare: Path, cwd: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A Python that sees this checkout and those packages, and nothing that is installed here."""
    environment = os.environ | {"PYTHONPATH": f"{bare}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.parametrize("module", OURS)
def test_the_bare_python_lacks_what_the_service_needs(bare: Path, module: str) -> None:
    """Else the next test would prove nothing."""
    assert "No module named" in run(bare, ROOT, "-c", f"import {module}").stderr


@pytest.mark.slow
def test_dry_run(bare: Path, tmp_path: Path) -> None:
    """Every check holds and every measurement is made."""
    done = run(bare, tmp_path, "-m", "loadtest.gpu", "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "out/bench/gpu-dry-run.json").read_text())
    assert figures["left out"] == []
    assert "WRONG" not in done.stdout
    assert len(figures["Images with their answers, a second"]) == 4


def test_without_a_gpu(bare: Path, tmp_path: Path) -> None:
    """One line says what to do."""
    done = run(bare, tmp_path, "-m", "loadtest.gpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "no CUDA device is visible: --dry-run shows all of it on a CPU\n"


def test_without_the_libraries(tmp_path: Path) -> None:
    """The same."""
    done = run(tmp_path, tmp_path, "-m", "loadtest.gpu", "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{sys.executable} has no torch: pip install torch transformers\n"


@pytest.mark.parametrize(
    ("num_tokens", "num_slots", "images_per_s"),
    [(50, 32, 372), (200, 1, 40), (200, 32, 226), (200, 64, 245), (600, 8, 61)],
)
def test_floor(num_tokens: int, num_slots: int, images_per_s: int) -> None:
    """Worked out by hand for Florence-2-large on an H200: 1.716 TFLOP, 458 MB and 29 MB a row."""
    least = work(LARGE, torch.float16)
    assert round(least.images_per_s(H200, num_slots, num_tokens)) == images_per_s


def test_overlap() -> None:
    """Intersection over union."""
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (20, 20, 30, 30)) == 0
    assert overlap((5, 5, 5, 9), (5, 5, 5, 9)) == 1


def test_budget() -> None:
    """What does not fit is left out by name."""
    budget = Budget(60)
    assert budget.allows("short", 1)
    assert not budget.allows("long", 61)
    assert budget.skipped == ["long"]


def test_shown() -> None:
    """Three digits, and a dash for what was not measured."""
    assert [shown(value) for value in (None, 0.123, 12.34, 123.4, 5)] == [
        "-",
        "0.12",
        "12.3",
        "123",
        "5",
    ]
