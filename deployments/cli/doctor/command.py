"""`florence doctor`: chooses what is checked by its options."""

import logging
from functools import partial
from pathlib import Path
from typing import Annotated

import httpx2
import typer

from deployments.cli.doctor import exposure as ports
from deployments.cli.doctor import local, model, remote
from deployments.cli.doctor.check import Check, report
from deployments.cli.doctor.kubernetes import HelmRelease, cluster_checks
from deployments.cli.doctor.local import Setup
from deployments.cli.doctor.remote import RemoteService
from deployments.cli.options import KeyOption, SetOption, StateOption, api_key, state_folder
from deployments.errors import SetupError
from deployments.local.client import ssl_context
from deployments.local.config import merge, parse_sets
from deployments.local.state import StateFolder
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
            help="Check the settings of this Serve config.",
            show_default="those of `florence serve`",
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
    url: Annotated[str | None, typer.Option(help="Check the service at this URL.")] = None,
    key: KeyOption = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="Send the service one image.")] = False,
    release: Annotated[
        str | None,
        typer.Option(help="Check this RayService, or Helm release.", show_default=RELEASE),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(help="Its namespace.", show_default="the context's")
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
    if smoke and not url:
        raise typer.BadParameter("--smoke needs --url.")
    logger.addHandler(logging.NullHandler())  # what the store and the files log is in the findings
    folder = state_folder(state)
    in_cluster = bool(release or namespace or context or kubeconfig)
    given = merge(parse_sets(sets or []), {"store": {"url": store_url}} if store_url else {})
    checks: list[Check] = []
    if config or given or load or not (url or in_cluster):
        settings = (
            local.config_settings(config, given) if config else local.laptop_settings(folder, given)
        )
        is_elsewhere = in_cluster or bool(url and not ports.is_loopback(ports.host_of(url)))
        checks += local_checks(Setup(settings, config is None, is_elsewhere, load))
    if in_cluster:
        found = HelmRelease(release or RELEASE, kubeconfig, context or "", namespace or "")
        checks += cluster_checks(found)
    if url is not None:
        checks += remote_checks(remote_service(url, key, folder), smoke)
    raise typer.Exit(report(checks, as_json))


def remote_service(url: str, key: str | None, state: StateFolder) -> RemoteService:
    """The service at `url`, with the key that was given, or this machine's.

    Raises:
        SetupError: it is no URL.
    """
    if not url.startswith(("http://", "https://")):
        raise SetupError(f"--url {url}: write http://HOST:PORT")
    http = httpx2.Client(verify=ssl_context(state.tls / "ca.pem"), timeout=ANSWER_S)
    return RemoteService(url.rstrip("/"), http, api_key(key, state) or "")


def local_checks(setup: Setup) -> list[Check]:
    """The checks of what the settings name, on this machine."""
    running = ports.processes()
    return [
        Check("versions", local.check_versions),
        Check("store", partial(local.check_store, setup)),
        Check("clock", partial(local.check_clock, setup), after="store"),
        Check("files", partial(local.check_files, setup), limit_s=60.0),
        Check("model", partial(model.check_model, setup), limit_s=LOAD_LIMIT_S),
        Check("gpu", partial(model.check_gpu, setup), after="model", limit_s=60.0),
        Check("keys", partial(local.check_keys, setup), after="store"),
        Check("webhook-keys", partial(local.check_webhook_keys, setup), after="store"),
        Check("ray-token", partial(ports.check_ray_token, setup, running)),
        Check("ports", partial(ports.check_local_ports, running)),
    ]


def remote_checks(service: RemoteService, smoke: bool) -> list[Check]:
    checks = [
        Check("service", partial(remote.check_health, service)),
        Check("service-clock", partial(remote.check_clock, service), after="service"),
        Check("service-key", partial(remote.check_key, service), after="service"),
        Check("service-webhook-keys", partial(remote.check_webhook_keys, service), after="service"),
        Check("service-paths", partial(remote.check_paths, service), after="service", limit_s=90.0),
        Check("service-ports", partial(ports.check_remote_ports, service.url)),
    ]
    run = Check("smoke", partial(remote.check_run, service), after="service", limit_s=RUN_LIMIT_S)
    return [*checks, run] if smoke else checks
