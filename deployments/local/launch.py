"""Starts the service on this machine with a Ray of its own, and stops what it started."""

import asyncio
import json
import logging
import os
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import psutil

from deployments.errors import SetupError
from deployments.files.open import open_file_store
from deployments.florence.checkpoint import ALL_FILES, open_checkpoint
from deployments.florence.cpu_affinity import reserve_cores
from deployments.jobs.open import open_store
from deployments.local.config import Profile, Tree
from deployments.local.haproxy import private_haproxy
from deployments.local.ports import free_port
from deployments.local.signals import (
    deferred_interrupts,
    ignored_signals,
    own_process_groups,
    restored_handlers,
)
from deployments.local.state import URL_LABEL, StateFolder, write_private
from deployments.ray_compat import (
    ONE_MACHINE,
    PROXIES,
    exporter_addresses,
    silence_worker_deaths,
    stop_idle_helpers,
)
from deployments.settings import Settings, with_environment

if TYPE_CHECKING:
    from ray.serve.schema import DeploymentStatusOverview

APPLICATION = "florence"
DRAIN_S = 10.0
REQUEUE_S = 30.0
READY_TIMEOUT_S = 120.0
EXIT_S = 2.0
OBJECT_STORE_BYTES = 256 * 1024 * 1024
REFUSAL = re.compile(rf"\b{SetupError.__name__}: (.+)")
RAY_LOGS = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray/session_latest/logs")
ENVIRONMENT = ONE_MACHINE | {"TOKENIZERS_PARALLELISM": "false"}


@contextmanager
def launch(profile: Profile) -> Iterator[None]:
    """Run the service; it is ready inside the block.

    Raises:
        SetupError: something that it needs is missing; the message names the remedy.
    """
    preflight(profile)
    import_application()
    proxy: AbstractContextManager[Tree] = private_haproxy() if profile.haproxy else nullcontext({})
    with proxy as environment:
        os.environ.update(ENVIRONMENT | profile.environment | environment)
        before = descendants()
        try:
            start(profile)
            leave_engine_cores(profile, before)
            yield
        finally:
            with ignored_signals():
                try:
                    drain(before)
                finally:
                    stop(before)


def import_application() -> None:
    """Import Ray and the application. An import that was interrupted cannot be repeated."""
    with deferred_interrupts():
        for name in ("ray.serve", "deployments.app"):
            import_module(name)


def descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def stop(before: set[psutil.Process]) -> None:
    """Stop Serve and Ray, then end every process that was not there `before`.

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
        _, left = psutil.wait_procs(started, timeout=EXIT_S)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=EXIT_S)


def drain(before: set[psutil.Process]) -> None:
    """Begin nothing new, answer the requests under way, requeue jobs; then refuse connections.

    Processes that were there `before` are not touched.
    Serve would stop all deployments at once, also those that the requests under way still need,
    and would meanwhile answer 404 to others, after which clients do not retry.
    """
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    lost = suppress(RayError, RayServeException, TimeoutError)  # a replica has died, or Serve
    try:
        with lost:
            for ending in begin_endings():
                with lost:
                    ending.result(timeout_s=REQUEUE_S)
    finally:
        silence_worker_deaths()
        kill_proxies(before)


def begin_endings() -> list[Any]:
    """Call the Ingress and the Dispatcher, if they run: also before `start` returns they may."""
    from ray import serve

    running = running_deployments()
    endings: list[Any] = []
    if "Ingress" in running:
        ingress = serve.get_deployment_handle("Ingress", APPLICATION)
        endings.append(ingress.drain.remote(DRAIN_S))
    if "Dispatcher" in running:
        dispatcher = serve.get_deployment_handle("Dispatcher", APPLICATION)
        endings.append(dispatcher.stop.remote())
    return endings


def running_deployments() -> set[str]:
    import ray
    from ray import serve

    if not ray.is_initialized():
        return set()
    application = serve.status().applications.get(APPLICATION)
    deployments = application.deployments if application else {}
    return {name for name, deployment in deployments.items() if is_running(deployment)}


def is_running(deployment: "DeploymentStatusOverview") -> bool:
    """Whether a replica of it takes calls."""
    states = deployment.replica_states.items()
    return any(state == "RUNNING" and number > 0 for state, number in states)


def kill_proxies(before: set[psutil.Process]) -> None:
    for process in descendants() - before:
        with suppress(psutil.NoSuchProcess):
            if "".join(process.cmdline()).startswith(PROXIES) or process.name() in PROXIES:
                process.kill()


def preflight(profile: Profile) -> None:
    """Find out what is missing before anything is started.

    Raises:
        SetupError: the port is in use, there is no such model or device, or what is to be kept
            cannot be.
    """
    free_port(profile.http["host"], profile.http["port"])
    open_checkpoint(profile.settings.model, ALL_FILES).check_files()
    if profile.settings.model.device == "cuda" and not Path("/dev/nvidiactl").exists():
        raise SetupError("no CUDA device on this machine: leave --device out, or give cpu")
    open_file_store(profile.settings.files)
    from deployments.telemetry.tracing import check_tracing

    check_tracing(profile.settings.tracing)
    asyncio.run(check_store(profile.settings))


async def check_store(settings: Settings) -> None:
    """Find out whether the store can be opened, and is not another service's.

    Raises:
        SetupError: it cannot.
    """
    store = await open_store(settings.store, settings.queue, is_owner=True)
    await store.close()


def start(profile: Profile) -> None:
    """Start Ray, Serve and the application, and wait until it answers.

    Raises:
        SetupError: it did not come up.
    """
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from deployments.app import assemble

    start_ray()
    stop_idle_helpers()
    logs = RAY_LOGS / "serve"
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    application = assemble(with_environment(profile.settings), profile.options)
    try:
        serve.start(http_options=profile.http, logging_config=LoggingConfig(**profile.logging))
        serve.run(application, name=APPLICATION, logging_config=profile.logging)
    except RuntimeError as error:
        said = refusal() or f"the service did not start: {reason(error)} (logs: {logs})"
        raise SetupError(said) from error
    wait_until_ready(profile, logs)


def start_ray() -> None:
    """Start a Ray for this service alone.

    Raises:
        SetupError: it did not start.
    """
    import ray

    try:
        with restored_handlers(), own_process_groups():
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # Ray raises this very class when it waits in vain
        raise SetupError(f"Ray did not start: {reason(error)} (logs: {RAY_LOGS})") from error


def refusal() -> str:
    """What a replica refused to start with, in its own words; empty where none did."""
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    with suppress(RayError, RayServeException):
        application = serve.status().applications.get(APPLICATION)
        deployments = application.deployments.values() if application else ()
        said = (REFUSAL.search(deployment.message) for deployment in deployments)
        return next((found[1] for found in said if found), "")
    return ""


def reason(error: Exception) -> str:
    """The last line of its message, which says the most."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def leave_engine_cores(profile: Profile, before: set[psutil.Process]) -> None:
    """Keep all processes but those that were there `before` off the engine's cores."""
    model = profile.settings.model
    if model.own_cores:
        reserve_cores(model.torch_threads, lambda: [each.pid for each in descendants() - before])


@contextmanager
def metrics_targets(state: StateFolder, url: str = "") -> Iterator[None]:
    """Write the addresses of the metrics to the state folder; they are removed after the block.

    Prometheus drops a label that begins with `__`: ours says where the service answers.
    """
    labels = {"job": "florence", URL_LABEL: url} if url else {"job": "florence"}
    targets = [{"targets": exporter_addresses(), "labels": labels}]
    write_private(state.targets, json.dumps(targets) + "\n")
    try:
        yield
    finally:
        state.targets.unlink(missing_ok=True)


def wait_until_ready(profile: Profile, logs: Path) -> None:
    """Ask /ready until it answers 200.

    Raises:
        SetupError: it does not within READY_TIMEOUT_S.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    with httpx2.Client(verify=unverified_tls(), trust_env=False, timeout=5) as client:
        while time.monotonic() < deadline:
            with suppress(httpx2.HTTPError):
                if client.get(f"{profile.base_url}/ready").status_code == 200:
                    return
            time.sleep(0.1)
    raise SetupError(f"the service is not ready after {READY_TIMEOUT_S:.0f} s: see {logs}")


def unverified_tls() -> ssl.SSLContext:
    """TLS without verification: our own certificate need not name the address that we ask at."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
