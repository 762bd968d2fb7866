"""`florence doctor` itself: which checks are made, and what they look at."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import httpx2
import typer

from deployments.cli.doctor import (
    cluster,
    exposure,
    files,
    keys,
    machine,
    model,
    pods,
    reach,
    references,
    remote,
    smoke,
    store,
    versions,
)
from deployments.cli.doctor.check import Check
from deployments.cli.doctor.kubectl import Kubectl, Refused
from deployments.cli.doctor.release import Release
from deployments.cli.doctor.remote import Service
from deployments.cli.doctor.report import report
from deployments.cli.doctor.subject import Subject, settings_here, settings_of
from deployments.cli.doctor.verdict import Verdict, skip
from deployments.cli.options import KeyOption, SetOption, StateOption
from deployments.errors import SetupError
from deployments.local.client import ssl_context
from deployments.local.profile import Tree, merge, parse_sets
from deployments.local.state import StateFolder
from deployments.settings import api_key_from_environment, state_home
from deployments.telemetry.log import logger

RELEASE = "florence"
LOAD_LIMIT_S, RUN_LIMIT_S, ANSWER_S = 600.0, 300.0, 15.0


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def doctor(
    state: StateOption = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A Serve config: look at its settings.",
            show_default="what `florence serve` would run with",
            dir_okay=False,
        ),
    ] = None,
    sets: SetOption = None,
    store_url: Annotated[
        str | None,
        typer.Option(
            "--store",
            help="The queue: postgresql://… or sqlite:///FILE.",
            show_default="FLORENCE_STORE, or that of the settings",
        ),
    ] = None,
    load: Annotated[bool, typer.Option("--load", help="Load a large model, too.")] = False,
    url: Annotated[
        str | None, typer.Option(help="A running service to look at, over HTTP.")
    ] = None,
    key: KeyOption = None,
    with_smoke: Annotated[
        bool, typer.Option("--smoke", help="Send the service one image.")
    ] = False,
    release: Annotated[
        str | None,
        typer.Option(help="A RayService, or its Helm release: look at it.", show_default=RELEASE),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(help="Where it is.", show_default="the context's")
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="kubectl's context.", show_default="the current one")
    ] = None,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="kubectl's config.", show_default="kubectl's own choice")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each check.")] = False,
) -> None:
    """Check a setup: this machine, a service at a URL, or a cluster.

    Without options, this machine is checked. --url checks a service; --release, --namespace,
    --context or --kubeconfig checks a cluster; this machine is then checked only with --config,
    --set, --store or --load. The exit code is 1 when a check fails.
    """
    if with_smoke and not url:
        raise typer.BadParameter("--smoke needs --url.")
    logger.addHandler(logging.NullHandler())  # the store's and the files' log; it is told here
    folder = state or state_home()
    in_cluster = bool(release or namespace or context or kubeconfig)
    given = chosen(sets or [], store_url)
    checks: list[Check] = []
    if config or given or load or not (url or in_cluster):
        settings = settings_of(config, given) if config else settings_here(folder, given)
        is_elsewhere = in_cluster or bool(url and not reach.is_here(reach.host_of(url)))
        checks += of_settings(Subject(settings, config is None, is_elsewhere, load))
    if in_cluster:
        kubectl = Kubectl(kubeconfig, context or "", namespace or "")
        checks += of_release(Release(kubectl, release or RELEASE))
    if url is None:
        raise typer.Exit(report(checks, as_json))
    with service_at(url, key, folder) as service:
        raise typer.Exit(report([*checks, *of_service(service, with_smoke)], as_json))


def chosen(sets: list[str], store_url: str | None) -> Tree:
    """The settings that the options give.

    Raises:
        SetupError: one cannot be read.
    """
    found: Tree = merge(parse_sets(sets), {"store": {"url": store_url}} if store_url else {})
    return found


@contextmanager
def service_at(url: str, key: str | None, folder: Path) -> Iterator[Service]:
    """The service at `url` inside the block.

    Raises:
        SetupError: it is no URL.
    """
    state = StateFolder(folder, make=False)
    if not url.startswith(("http://", "https://")):
        raise SetupError(f"--url {url}: write http://HOST:PORT")
    secret = key or api_key_from_environment() or state.stored_key() or ""
    with httpx2.Client(verify=ssl_context(state.tls / "ca.pem"), timeout=ANSWER_S) as http:
        yield Service(url.rstrip("/"), http, secret)


def of_settings(subject: Subject) -> list[Check]:
    """The checks of what settings name, on this machine."""
    running = machine.processes()
    return [
        Check("versions", versions.versions),
        Check("store", partial(store.store, subject)),
        Check("clock", partial(store.clock, subject), after="store"),
        Check("files", partial(files.files, subject), limit_s=60.0),
        Check("model", partial(model.model, subject), limit_s=LOAD_LIMIT_S),
        Check("gpu", partial(model.gpu, subject), after="model", limit_s=60.0),
        Check("keys", partial(keys.keys, subject), after="store"),
        Check("webhook-keys", partial(keys.webhook_keys, subject), after="store"),
        Check("ray-token", partial(machine.ray_token, subject, running)),
        Check("ports", partial(machine.ports, running)),
    ]


def of_service(service: Service, with_smoke: bool) -> list[Check]:
    """The checks of a running service, from outside."""
    checks = [
        Check("service", partial(remote.health, service)),
        Check("service-clock", partial(remote.clock, service), after="service"),
        Check("service-key", partial(remote.key, service), after="service"),
        Check("service-webhook-keys", partial(remote.webhook_keys, service), after="service"),
        Check("service-paths", partial(remote.paths, service), after="service", limit_s=90.0),
        Check("service-ports", partial(reach.ports, service.url)),
    ]
    smoking = Check("smoke", partial(smoke.smoke, service), after="service", limit_s=RUN_LIMIT_S)
    return [*checks, smoking] if with_smoke else checks


CLUSTER: dict[str, Callable[[Release], Verdict]] = {
    "kuberay": cluster.kuberay,
    "ready": cluster.ready,
    "limits": cluster.limits,
    "ray": cluster.ray,
    "autoscaler": cluster.autoscaler,
    "ray-token": cluster.token,
    "secrets": references.secrets,
    "exposed": exposure.exposed,
    "policies": exposure.policies,
    "pods": pods.pods,
    "grace": cluster.grace,
}


def of_release(release: Release) -> list[Check]:
    """The checks of a release of the chart, by kubectl."""
    looks = [
        Check(f"cluster-{name}", partial(permitted, look, release), after="cluster")
        for name, look in CLUSTER.items()
    ]
    return [Check("cluster", partial(cluster.found, release)), *looks]


def permitted(look: Callable[[Release], Verdict], release: Release) -> Verdict:
    """What `look` says; what this account may not read is not known."""
    try:
        return look(release)
    except Refused as error:
        return skip(error.verdict.said)
