"""The doctor as a program reads it, and subjects for its checks."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deployments.cli.doctor.check import Finding, Level
from deployments.cli.doctor.local import Setup
from deployments.settings import parse
from tests.cli.conftest import Florence
from tests.jobs.postgres import bench, postgres

__all__ = ["bench", "postgres"]


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found, and its exit code."""

    code: int
    found: dict[str, Finding]


Doctor = Callable[..., Diagnosis]


@pytest.fixture
def doctor(florence: Florence) -> Doctor:
    """Runs `florence doctor --json` with some words."""

    def call(*words: str) -> Diagnosis:
        left = florence("doctor", "--json", *words)
        lines = [json.loads(line) for line in left.out.splitlines()]
        return Diagnosis(left.code, {line["check"]: finding_in(line) for line in lines})

    return call


def finding_in(line: dict[str, Any]) -> Finding:
    """What a line of JSON says of its check."""
    return Finding(Level(line["verdict"]), line["said"], line["remedy"] or "")


def setup_of(tree: dict[str, Any], *, is_laptop: bool = False, is_elsewhere: bool = False) -> Setup:
    """One with these settings."""
    return Setup(parse(tree), is_laptop, is_elsewhere)


def sqlite_at(file: Path) -> Setup:
    """One whose store is a file."""
    return setup_of({"store": {"url": f"sqlite:///{file}"}})
