"""Ray is as it was when our use of its private parts was written; if not, read them again."""

import inspect
import json
import logging
import mmap
import re
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._common.formatters import JSONFormatter
from ray._private import node, worker
from ray.exceptions import ActorDiedError, RayTaskError
from ray.experimental import get_local_object_locations, internal_kv
from ray.serve import context
from ray.serve._private import (
    constants,
    haproxy,
    logging_utils,
    proxy,
    replica,
    router,
)
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse
from ray.serve.metrics import DEPLOYMENT_TAG

from deployments import ray_compat
from deployments.errors import BadRequest
from deployments.local.config import LAPTOP, serve_config
from deployments.ray_compat import original_error

RAY = Path(ray.__file__).parent
VARIABLE = re.compile(r"RAY_\w+")


def test_this_is_the_version_that_was_read() -> None:
    """With another one, read every part of ray_compat again, then change READ_IN."""
    assert ray.__version__ == ray_compat.READ_IN


def in_binary(words: set[str]) -> set[str]:
    """Which of `words` stand in Ray's compiled part."""
    with (RAY / "_raylet.so").open("rb") as file:
        binary = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return {word for word in words if binary.find(word.encode()) >= 0}


@pytest.mark.parametrize("file", [Path(ray_compat.__file__), serve_config(), LAPTOP], ids=str)
def test_every_variable_is_read_by_ray(file: Path) -> None:
    """Ray ignores one that it does not know."""
    ours = {name.removeprefix("RAY_") for name in VARIABLE.findall(file.read_text())}
    sources = [
        *(RAY / "serve" / "_private").glob("*.py"),
        *(RAY / "_common" / "usage").glob("*.py"),
    ]
    sources += (RAY / "_private" / "accelerators").glob("*.py")
    text = "".join(source.read_text() for source in sources)
    others = {name for name in ours if not re.search(rf"\bRAY_{name}\b", text)}
    assert others - in_binary(others) == set()


def test_a_handle_can_pass_by_value() -> None:
    """Its option is private."""
    parameters = inspect.signature(DeploymentHandle.options).parameters
    assert "_by_reference" in parameters


def test_the_result_of_a_call_can_be_looked_at_before_it_is_there() -> None:
    """Its reference is private, and where it lies is known without asking other processes."""
    assert inspect.iscoroutinefunction(DeploymentResponse._to_object_ref)
    assert "No RPCs" in str(inspect.getdoc(get_local_object_locations))


def test_fields_of_a_log_line() -> None:
    """They stand in the JSON by themselves, and Serve writes no id of its own over them."""
    record = logging.makeLogRecord(ray_compat.log_extra({"request_id": "ours"}) | {"msg": "text"})
    called: Any = context._RequestContext(request_id="serve's")
    known = context._serve_request_context.set(called)
    try:
        logging_utils.ServeContextFilter().filter(record)  # type: ignore[no-untyped-call]
    finally:
        context._serve_request_context.reset(known)
    logging_utils.ServeLogAttributeRemovalFilter().filter(record)  # type: ignore[no-untyped-call]
    line = json.loads(JSONFormatter().format(record))
    assert (line["message"], line["request_id"]) == ("text", "ours")
    assert constants.SERVE_LOGGER_NAME == ray_compat.SERVE_LOGGER


def test_serve_labels_a_replicas_metrics_with_its_deployment() -> None:
    """Under the name that is left to it."""
    assert DEPLOYMENT_TAG == ray_compat.SERVE_LABEL


def wrapped(error: Exception) -> Exception:
    """An error as Ray hands it to the caller of a task."""
    task_error: Exception = RayTaskError("run", "traceback", error)  # type: ignore[no-untyped-call]
    return task_error


@pytest.mark.parametrize("error", [BadRequest("no"), KeyError("bug")])
def test_the_error_of_a_deployment_is_its_cause(error: Exception) -> None:
    """Ray wraps it once for each deployment that it went through."""
    assert original_error(wrapped(wrapped(error))) is error
    assert original_error(error) is error


def test_the_death_of_an_earlier_replica_is_a_cause() -> None:
    """Serve's router says that an argument could not be resolved, because of it."""
    death = ActorDiedError()
    unresolved = RayServeException("an argument could not be resolved")
    unresolved.__cause__ = death
    assert original_error(wrapped(unresolved)) is death
    assert "wrapped.__cause__ = e" in inspect.getsource(router)


def test_serve_calls_the_destructor_of_a_deployment() -> None:
    """It awaits the coroutine that `__del__` returns."""
    text = inspect.getsource(replica.UserCallableWrapper.call_destructor)
    assert "await self._call_func_or_gen(\n                    self._callable.__del__" in text


def test_serve_calls_a_deployment_by_these_names() -> None:
    """A method of another name would never be called."""
    text = inspect.getsource(replica)
    assert "getattr(self._callable, HEALTH_CHECK_METHOD" in text
    assert constants.HEALTH_CHECK_METHOD == "check_health"
    assert '"record_autoscaling_stats"' in text


def test_processes_that_listen_have_these_names() -> None:
    """Ray calls the process of an actor by its class."""
    assert ray_compat.PROXIES == ("ray::ProxyActor", "ray::HAProxyManager", "haproxy")
    assert "\nclass ProxyActor(" in inspect.getsource(proxy)
    assert "\nclass HAProxyManager(" in inspect.getsource(haproxy)


def test_helpers_can_be_stopped_and_the_driver_silenced() -> None:
    """By these methods and this switch."""
    for method in (node.Node.kill_monitor, node.Node.kill_log_monitor, node.Node.kill_dashboard):
        assert "check_alive" in inspect.signature(method).parameters
    assert hasattr(worker, "_global_node")
    assert "if not _worker_logs_enabled:" in inspect.getsource(worker.print_worker_logs)


def test_serve_writes_the_lines_that_haproxy_reads_changed() -> None:
    """Its template is where a launcher of ours looks for the two ports."""
    assert "    bind :{{ config.metrics_port }}\n" in HAPROXY_CONFIG_TEMPLATE
    assert "  bind *:{{ config.stats_port }}\n" in HAPROXY_CONFIG_TEMPLATE
    assert '[haproxy_bin, "-db", "-f", self.config_file_path]' in inspect.getsource(haproxy)


def test_notes_for_the_policy_can_be_left() -> None:
    """In Ray's key-value store, as autoscaling.py does."""
    put = inspect.signature(internal_kv._internal_kv_put).parameters
    get = inspect.signature(internal_kv._internal_kv_get).parameters
    assert {"key", "value", "overwrite", "namespace"} <= put.keys()
    assert {"key", "namespace"} <= get.keys()
