"""`florence serve` as a process that is told to stop, and started again on the same state."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import httpx2

from deployments.local.haproxy import free_ports
from loadtest.drills.cluster import ROOT
from loadtest.drills.load import Target, until

KEY = "florence-drills"
START_S = 180.0
STOP_S = 90.0


class Service:
    """One service on the state in `folder`; `flags` are those of `florence serve`."""

    def __init__(self, folder: Path, flags: Sequence[str]) -> None:
        [port] = free_ports(1)
        self.target = Target(f"http://127.0.0.1:{port}", KEY)
        self._log = folder / "serve.log"
        command = [sys.executable, "-m", "deployments.cli", "serve", "--port", str(port)]
        self._command = [*command, "--state", str(folder), *flags]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until every box answers."""
        environment = os.environ | {"FLORENCE_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=environment, stdout=log, stderr=log)
        until(self._is_ready, START_S, "florence serve is not ready")

    def terminate(self) -> None:
        """Send SIGTERM, as a supervisor does."""
        assert self._process, "it was not started"
        self._process.terminate()

    def ended(self) -> float:
        """Seconds until it has ended."""
        assert self._process, "it was not started"
        began = time.monotonic()
        self._process.wait(STOP_S)
        self._process = None
        return time.monotonic() - began

    def stop(self) -> None:
        """End it, if it still runs."""
        if self._process:
            self.terminate()
            self.ended()

    def _is_ready(self) -> bool:
        assert self._process, "it was not started"
        if self._process.poll() is not None:
            raise RuntimeError(f"florence serve ended: {self._log.read_text()[-2000:]}")
        with suppress(httpx2.HTTPError):
            url = f"{self.target.url}/ready"
            return httpx2.get(url, timeout=5, trust_env=False).status_code == 200
        return False
