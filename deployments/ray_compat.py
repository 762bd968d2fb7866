"""Every part of Ray that this service uses although Ray does not promise it.

All of it was read in the source of Ray `READ_IN`. tests/test_ray_compat.py fails when Ray changes
one of these parts, and on every other version of Ray, so that they are read again.
`autoscaling.py` alone has two more, which the same test covers: Serve pickles that module by value.

Two parts have no function here:

- Serve calls a deployment's `__del__` when it stops a replica, once its requests are answered, and
  awaits the coroutine that `__del__` returns.
- Serve calls `check_health` and `record_autoscaling_stats` by their names.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

READ_IN = "2.60.0"

# Logs: Serve writes what a replica logs under this logger, or below it.
SERVE_LOGGER = "ray.serve"
# Metrics: Serve refuses this label from a replica, and adds it by itself.
SERVE_LABEL = "deployment"

# Environment of Ray's processes on one machine.
ONE_MACHINE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_task_events_report_interval_ms": "0",  # Ray would keep 100,000 calls for its dashboard
    "RAY_metrics_report_interval_ms": "2500",  # for `florence top`; Ray's own is ten seconds
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
}
# Names of the processes that listen for clients.
PROXIES = ("ray::ProxyActor", "ray::HAProxyManager", "haproxy")

ENABLE_HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
HAPROXY_BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
HAPROXY_STATS_PORT = "RAY_SERVE_HAPROXY_STATS_PORT"
HAPROXY_METRICS_PORT = "RAY_SERVE_HAPROXY_METRICS_PORT"
HAPROXY_PORTS = (HAPROXY_STATS_PORT, HAPROXY_METRICS_PORT, "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT")
HAPROXY_FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}
HAPROXY_FAST_STOP = {
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
}
# Serve starts `haproxy -db -f FILE`, and in FILE the statistics and the metrics are bound to every
# interface: `bind *:8404`, `bind :9101`. {stats} and {metrics} are these ports.
HAPROXY_TO_LOOPBACK = "s/bind [*]*:\\({stats}\\|{metrics}\\)$/bind 127.0.0.1:\\1/"


def pass_by_value(handle: "DeploymentHandle[Any]") -> "DeploymentHandle[Any]":
    """The handle with arguments and results by value over gRPC, at most 4 MiB each."""
    return handle.options(_by_reference=False)


async def raise_loss(begun: Any) -> None:
    """Raise what became of the result of a call by reference, if no node has it any more.

    Ray tells this only to the process that made the call. A replica that got the result as an
    argument waits on for a node that has it.
    """
    import ray
    from ray.experimental import get_local_object_locations

    result = await begun._to_object_ref()
    is_made = ray.wait([result], timeout=0, fetch_local=False)[0]
    if is_made and not get_local_object_locations([result]).get(result, {}).get("node_ids"):
        await result  # an error is here, and so is what is small enough to have no node


def log_extra(fields: dict[str, Any]) -> dict[str, Any]:
    """The `extra` of a log call whose JSON line has these fields.

    Serve would write its own id of the call, which clients do not know, over a `request_id`.
    """
    return {"skip_context_filter": True, "ray_serve_extra_fields": fields}


def log_fields(extra: dict[str, Any]) -> dict[str, Any]:
    """The fields in what `log_extra` returned."""
    fields: dict[str, Any] = extra["ray_serve_extra_fields"]
    return fields


def original_error(error: BaseException) -> BaseException:
    """The error that a deployment raised, or the death of its replica, without Ray's wrapping."""
    from ray.exceptions import RayActorError, RayTaskError
    from ray.serve.exceptions import RayServeException

    match error:
        case RayTaskError():
            return original_error(error.cause)
        case RayServeException(__cause__=RayActorError() as death):  # of a deployment before it
            return death
        case _:
            return error


def exporter_addresses() -> list[str]:
    """Where the nodes of this machine's Ray export metrics, as `HOST:PORT`."""
    import ray

    return [f"127.0.0.1:{node['MetricsExportPort']}" for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def stop_idle_helpers() -> None:
    """Stop what Ray starts for clusters, which only takes memory on one machine."""
    from ray._private.worker import _global_node

    assert _global_node is not None
    _global_node.kill_monitor(check_alive=False)
    _global_node.kill_log_monitor(check_alive=False)
    _global_node.kill_dashboard(check_alive=False)


def silence_worker_deaths() -> None:
    """Keep Ray from printing that a process has died: from now on we end them."""
    from ray._private import worker

    worker._worker_logs_enabled = False
