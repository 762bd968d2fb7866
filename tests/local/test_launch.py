"""The end of a service on this machine: what it calls, and what it does after a failure."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import serve
from ray.exceptions import ActorDiedError

from deployments.local import launch


class Replica:
    """Records the calls to its deployment, and whether their ends were waited for."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name = name
        self.error = error
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.num_ended = 0

    def __getattr__(self, method: str) -> Any:
        def remote(*given: Any) -> "Replica":
            self.calls.append((method, given))
            return self

        return SimpleNamespace(remote=remote)

    def result(self, timeout_s: float) -> None:
        """The end of a call."""
        self.num_ended += 1
        if self.error:
            raise self.error


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes when the proxies are killed; Ray is up."""
    killed: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(launch, "kill_proxies", lambda _: killed.append("proxies"))
    monkeypatch.setattr(launch, "silence_worker_deaths", lambda: None)
    return killed


def runs(
    monkeypatch: pytest.MonkeyPatch, states: dict[str, dict[str, int]], *replicas: Replica
) -> None:
    """Let Serve have replicas in these states."""
    deployments = {name: SimpleNamespace(replica_states=each) for name, each in states.items()}
    application = SimpleNamespace(deployments=deployments)
    status = SimpleNamespace(applications={launch.APPLICATION: application})
    handles = {replica.name: replica for replica in replicas}
    monkeypatch.setattr(serve, "status", lambda: status)
    monkeypatch.setattr(serve, "get_deployment_handle", lambda name, _: handles[name])


@pytest.mark.parametrize("states", [{}, {"STARTING": 1}, {"RUNNING": 0, "STOPPING": 1}])
def test_what_does_not_run_is_not_called(
    killed: list[str], monkeypatch: pytest.MonkeyPatch, states: dict[str, int]
) -> None:
    """The Dispatcher requeues its jobs also while the Ingress has no replica."""
    dispatcher = Replica("Dispatcher")
    runs(monkeypatch, {"Ingress": states, "Dispatcher": {"RUNNING": 1}}, dispatcher)

    launch.drain(set())

    assert dispatcher.calls == [("stop", ())]
    assert dispatcher.num_ended == 1
    assert killed == ["proxies"]


@pytest.mark.parametrize("error", [ActorDiedError(), TimeoutError()], ids=["died", "late"])
def test_a_lost_ingress_does_not_hinder_the_dispatcher(
    killed: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Its end is waited for all the same."""
    ingress, dispatcher = Replica("Ingress", error), Replica("Dispatcher")
    running = {"RUNNING": 1}
    runs(monkeypatch, {"Ingress": running, "Dispatcher": running}, ingress, dispatcher)

    launch.drain(set())

    assert ingress.calls == [("drain", (launch.DRAIN_S,))]
    assert dispatcher.num_ended == 1
    assert killed == ["proxies"]


def test_before_serve_has_started_nothing_is_called(
    killed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted start has no application, or not even Ray."""
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={}))
    launch.drain(set())
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    launch.drain(set())

    assert killed == ["proxies", "proxies"]


def test_connections_are_refused_also_after_a_mistake(
    killed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error is not hidden."""

    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(serve, "status", fail)
    with pytest.raises(ZeroDivisionError):
        launch.drain(set())

    assert killed == ["proxies"]
