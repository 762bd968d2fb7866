"""Starts the application on this machine with a Ray of its own, and stops what it started."""

import asyncio
import logging
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path

import httpx2
import psutil

from deployments.errors import SetupError
from deployments.files.open import open_file_store
from deployments.florence.checkpoint import ALL_FILES, open_checkpoint
from deployments.florence.cores import left_to_engine
from deployments.jobs.open import open_store
from deployments.local.haproxy import confined
from deployments.local.profile import Profile, Tree
from deployments.local.signals import held_off, kept, postponed
from deployments.settings import Settings, with_environment
from deployments.telemetry.tracing import check_tracing

APPLICATION = "florence"
FRONTS = ("ray::ProxyActor", "ray::HAProxyManager")
CLOSING_S = 10.0
HANDING_BACK_S = 30.0
READY_TIMEOUT_S = 120.0
ENDING_S = 2.0
OBJECT_STORE_BYTES = 256 * 1024 * 1024
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_task_events_report_interval_ms": "0",  # Ray would keep 100,000 calls for its dashboard
    "RAY_metrics_report_interval_ms": "2500",  # for `florence top`; Ray's own is ten seconds
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@contextmanager
def running(profile: Profile) -> Iterator[None]:
    """Have the service ready inside the block.

    Raises:
        SetupError: something that it needs is missing; it names the remedy.
    """
    check(profile)
    load()
    front: AbstractContextManager[Tree] = confined() if profile.haproxy else nullcontext({})
    with front as of_front:
        os.environ.update(ENVIRONMENT | profile.environment | of_front)
        before = descendants()
        try:
            start(profile)
            try:
                yield
            finally:
                with held_off():
                    close(before)
        finally:
            with held_off():
                stop(before)


def load() -> None:
    """Import all of Ray and of the application, which cannot be done again once interrupted."""
    with postponed():
        for name in ("ray.serve", "deployments.app"):
            import_module(name)


def descendants() -> set[psutil.Process]:
    """All processes below this one."""
    return set(psutil.Process().children(recursive=True))


def stop(before: set[psutil.Process]) -> None:
    """Let what runs finish, then end every process that was not there `before`.

    Ray's agents outlive an interrupted start by a minute, so what does not end is ended.
    """
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        if ray.is_initialized():
            serve.delete(APPLICATION)
    except RayServeException:
        pass  # Serve was not started yet
    finally:
        started = descendants() - before
        ray.shutdown()
        _, left = psutil.wait_procs(started, timeout=ENDING_S)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=ENDING_S)


def close(before: set[psutil.Process]) -> None:
    """Begin nothing new, answer who waits, hand queued requests back; then let nobody connect.

    Processes that were there `before` are others'.
    Serve would stop all boxes at once, also those that the requests under way still need, and
    would meanwhile say 404 to others, after which no client calls again.
    """
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    with suppress(RayError, RayServeException, TimeoutError):
        ingress, dispatcher = (
            serve.get_deployment_handle(box, APPLICATION) for box in ("Ingress", "Dispatcher")
        )
        endings = ingress.close.remote(CLOSING_S), dispatcher.stop.remote()
        for ending in endings:
            ending.result(timeout_s=HANDING_BACK_S)
    hush()
    for process in descendants() - before:
        with suppress(psutil.NoSuchProcess):
            if process.name() == "haproxy" or "".join(process.cmdline()).startswith(FRONTS):
                process.kill()


def hush() -> None:
    """Have Ray no longer print, on standard output, that a process has died: now we end them."""
    from ray._private import worker

    worker._worker_logs_enabled = False


def check(profile: Profile) -> None:
    """Find what is missing before anything is started.

    Raises:
        SetupError: the port is in use, there is no such model or device, or what is to be kept
            cannot be.
    """
    free_port(profile.http["host"], profile.http["port"])
    open_checkpoint(profile.settings.model, ALL_FILES)
    if profile.settings.model.device == "cuda" and not Path("/dev/nvidiactl").exists():
        raise SetupError("no CUDA device on this machine: leave --device out, or give cpu")
    open_file_store(profile.settings.files)
    check_tracing(profile.settings.tracing)
    asyncio.run(check_store(profile.settings))


async def check_store(settings: Settings) -> None:
    """Find out whether the queue can be opened, and is not another service's.

    Raises:
        SetupError: it cannot.
    """
    store = await open_store(settings.store, settings.queue, is_owner=True)
    await store.close()


def free_port(host: str, port: int = 0) -> int:
    """`port`, or any port for 0, that can be listened on at `host` now.

    Raises:
        SetupError: it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SetupError(
                f"cannot listen on {host}:{port} ({reason}): choose another with --port or --host"
            ) from None
        found: int = probe.getsockname()[1]
        return found


def start(profile: Profile) -> None:
    """Start Ray, Serve and the application, and wait until it answers.

    Raises:
        SetupError: it did not come up.
    """
    import ray
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from deployments.app import assemble

    model = profile.settings.model
    with kept(), left_to_engine(model.torch_threads if model.own_cores else 0):
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    stop_idle_helpers()
    logs = Path("/tmp/ray/session_latest/logs/serve")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    application = assemble(with_environment(profile.settings), profile.options)
    try:
        serve.start(http_options=profile.http, logging_config=LoggingConfig(**profile.logging))
        serve.run(application, name=APPLICATION, logging_config=profile.logging)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise SetupError(f"the service did not start: {reason} (logs: {logs})") from error
    wait_until_ready(profile, logs)


def exporters() -> list[str]:
    """Where the nodes that were started here export metrics, as `HOST:PORT`."""
    import ray

    return [f"127.0.0.1:{node['MetricsExportPort']}" for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def stop_idle_helpers() -> None:
    """Stop what Ray starts for clusters; on one machine it does nothing but take memory."""
    from ray._private.worker import _global_node

    assert _global_node is not None
    _global_node.kill_monitor(check_alive=False)
    _global_node.kill_log_monitor(check_alive=False)
    _global_node.kill_dashboard(check_alive=False)


def wait_until_ready(profile: Profile, logs: Path) -> None:
    """Ask /ready until it says yes.

    Raises:
        SetupError: it does not within two minutes.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    with httpx2.Client(verify=unchecked(), trust_env=False, timeout=5) as client:
        while time.monotonic() < deadline:
            with suppress(httpx2.HTTPError):
                if client.get(f"{profile.base_url}/ready").status_code == 200:
                    return
            time.sleep(0.1)
    raise SetupError(f"the service is not ready after {READY_TIMEOUT_S:.0f} s: see {logs}")


def unchecked() -> ssl.SSLContext:
    """For our own port, whose certificate need not be for the address that we ask at."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
