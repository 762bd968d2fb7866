"""`florence doctor` looks at the running service, from outside and from inside."""

import json

from deployments import __version__
from deployments.local.state import StateFolder
from tests.acceptance.caller import Caller
from tests.acceptance.command import florence

AT_URL = {"service", "service-clock", "service-key", "service-webhook-keys", "service-paths"}
Findings = dict[str, dict[str, str]]


def doctor(state: StateFolder, *words: str) -> tuple[int, Findings]:
    """The exit code, and what was said of each check."""
    done = florence("doctor", "--json", "--state", str(state.folder), *words)
    assert done.stderr == ""
    return done.returncode, {
        each["check"]: each for each in map(json.loads, done.stdout.splitlines())
    }


def verdicts(found: Findings) -> dict[str, str]:
    """The verdict of each check."""
    return {name: each["verdict"] for name, each in found.items()}


def test_a_service_that_serves_is_fine(caller: Caller, state: StateFolder) -> None:
    """The local key is found, and a run answers with boxes."""
    code, found = doctor(state, "--url", caller.url, "--smoke")
    assert verdicts(found) == dict.fromkeys([*AT_URL, "smoke"], "ok") | {"service-ports": "skip"}
    assert found["service"]["said"] == f"{caller.url} is ready, version {__version__}"
    assert "boxes: " in found["smoke"]["said"]
    assert code == 0


def test_a_wrong_key_fails(caller: Caller, state: StateFolder) -> None:
    """Both by itself, and with the run."""
    code, found = doctor(state, "--url", caller.url, "--key", "wrong:key", "--smoke")
    assert code == 1
    wrong = {name for name, verdict in verdicts(found).items() if verdict == "fail"}
    assert wrong == {"service-key", "smoke"}
    assert "401" in found["service-key"]["said"]


def test_what_it_keeps_is_fine_while_it_runs(caller: Caller, state: StateFolder) -> None:
    """The store, files, keys and Ray are checked while the service runs, undisturbed."""
    code, found = doctor(state)
    assert code == 0, found
    assert "fail" not in verdicts(found).values()
    assert "schema" in found["store"]["said"]
    assert found["keys"]["said"].startswith("1 in the settings")
    assert found["webhook-keys"]["verdict"] == "ok"
    assert found["ray-token"]["said"] == "Ray asks for it"
    assert found["ports"]["verdict"] == "ok"
    assert caller.http.get(f"{caller.url}/ready").status_code == 200
