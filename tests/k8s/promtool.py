"""promtool, Prometheus' checker of rules: is a file right, and do its alerts do as a test says."""

import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from k8s.generate.helm import CHART

PROMTOOL = Path(sys.executable).with_name("promtool")
ALERTS = sorted((CHART / "files" / "alerts").glob("*.yaml"))
Rule = dict[str, Any]


def alerts() -> list[Rule]:
    """The alerts of the chart."""
    return [yaml.safe_load(file.read_text()) for file in ALERTS]


def exported_names(exprs: Iterable[str]) -> set[str]:
    """The metrics of Ray's exporters that expressions name, as the exporters write them."""
    return {name for expr in exprs for name in re.findall(r"\bray_\w+", expr)}


def write_rules(folder: Path, rules: Sequence[Rule]) -> Path:
    """A file of rules, in a group as the chart makes it."""
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "florence", "rules": list(rules)}]}))
    return file


def check(file: Path) -> str:
    """What promtool finds wrong with a file of rules; nothing when it is right."""
    return run("check", "rules", "--lint=all", "--lint-fatal", str(file))


def test(file: Path) -> str:
    """What promtool finds that alerts do otherwise than a test says; nothing when all is right."""
    return run("test", "rules", str(file))


def run(*words: str) -> str:
    """What promtool says when it fails."""
    done = subprocess.run([PROMTOOL, *words], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""
