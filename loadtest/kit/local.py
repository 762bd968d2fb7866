"""A service of the kit's own on this machine, where no `--url` is given."""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from deployments.errors import SetupError
from deployments.local.ports import free_port
from loadtest.bench.processes import Cost, Family
from loadtest.kit.plan import KEY
from loadtest.kit.scenarios import Scenario

MIXED = Path("out/bench/mixed")
START_S = 180.0
STOP_S = 60.0


@dataclass(frozen=True)
class Service:
    """Where it is, the key that it takes, and its processes where they are ours."""

    url: str
    key: str
    family: Family | None = None

    def cost(self) -> Cost | None:
        """Processor time that it has used until now."""
        return self.family.cost() if self.family else None


@contextmanager
def service(
    scenario: Scenario, receivers: Sequence[str], haproxy: bool, sets: Sequence[str]
) -> Iterator[Service]:
    """`florence serve` for as long as the block runs, allowed to post to these `host:port`.

    Raises:
        SetupError: it does not start; the message has its own words.
    """
    port, key = free_port("127.0.0.1"), secrets.token_hex(16)
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as state:
        flags = [*model(scenario), *(f"--set={text}" for text in [*allowed(receivers), *sets])]
        command = [sys.executable, "-m", "deployments.cli", "serve", "--state", state, *flags]
        command += ["--port", str(port), *(["--haproxy"] if haproxy else [])]
        process = subprocess.Popen(
            command,
            env=os.environ | {KEY: key},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_until_ready(process, url)
            yield Service(url, key, Family(process.pid))
        finally:
            process.terminate()
            process.communicate(timeout=STOP_S)


def model(scenario: Scenario) -> list[str]:
    """The checkpoint: the demo's, or one whose answers have many lengths."""
    if not scenario.needs_long_answers:
        return []
    from loadtest.bench.checkpoint import mixed_checkpoint

    return ["--model", str(mixed_checkpoint(MIXED).resolve())]


def allowed(receivers: Sequence[str]) -> list[str]:
    """The setting that lets the service post to loopback."""
    return [f"webhooks.allowed_hosts={list(receivers)}"] if receivers else []


def wait_until_ready(process: "subprocess.Popen[str]", url: str) -> None:
    """Ask until it answers.

    Raises:
        SetupError: it has ended, or does not answer within three minutes.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SetupError(f"the service did not start: {last_line(process)}")
        try:
            if httpx2.get(f"{url}/ready", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx2.HTTPError:
            time.sleep(0.2)
    raise SetupError(f"the service is not ready after {START_S:.0f} s")


def last_line(process: "subprocess.Popen[str]") -> str:
    """What a process that has ended said last."""
    said = process.communicate()[1].strip()
    return said.splitlines()[-1] if said else f"exit code {process.returncode}"
