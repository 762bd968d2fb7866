"""`florence serve`: the service on this machine, until Ctrl-C."""

import json
import random
import shlex
import threading
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deployments.cli.options import SetOption, StateOption, state_folder
from deployments.errors import SetupError
from deployments.florence.checkpoint import Checkpoint, local_folder
from deployments.florence.identity import DEMO_NOTE
from deployments.florence.tasks import APP
from deployments.local.client import data_uri_of
from deployments.local.config import Profile, Tree, local_profile, merge, parse_sets
from deployments.local.launch import launch, metrics_targets
from deployments.local.state import StateFolder, write_private
from deployments.settings import ModelSettings

ENDPOINT = f"{APP}/region-proposal"
NEEDS_TLS = "  fal's Python client speaks https only: start again with --tls"

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    model: Annotated[
        str | None,
        typer.Option(help="Checkpoint: a folder, a hub id, or `demo`.", show_default="demo"),
    ] = None,
    state: StateOption = None,
    tls: Annotated[bool, typer.Option("--tls", help="Serve https with a private CA.")] = False,
    haproxy: Annotated[
        bool, typer.Option("--haproxy", help="Put HAProxy in front, as on a cluster; http only.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="Where the model runs: cpu or cuda.", show_default="cpu")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="The queue: postgresql://… or sqlite:///FILE.",
            show_default="SQLite in the state folder",
        ),
    ] = None,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Forget the queue when the service stops.")
    ] = False,
    files: Annotated[
        str | None,
        typer.Option(
            help="Uploads and pictures: a folder, s3://, gs:// or az://.",
            show_default="in the state folder",
        ),
    ] = None,
    sets: SetOption = None,
) -> None:
    """Serve on this machine until Ctrl-C.

    Prints the address, the key and how to call when the service is ready.
    """
    if ephemeral and store:
        raise typer.BadParameter("--ephemeral and --store exclude each other.")
    if haproxy and tls:
        raise SetupError("HAProxy serves plain http here: leave --tls or --haproxy out")
    url = "memory:" if ephemeral else store
    args = merge(settings_of(model, device, url, files), parse_sets(sets or []))
    folder = state_folder(state, make=True)
    serve_until_stopped(local_profile(folder, host, port, args, tls=tls, haproxy=haproxy), folder)


def serve_until_stopped(profile: Profile, state: StateFolder) -> None:
    """Start, print how to call, wait for Ctrl-C or SIGTERM, and stop.

    Raises:
        SetupError: something is wrong; nothing is left running.
    """
    console = Console()
    with console.status("Starting Ray and loading the model …") as status, launch(profile):
        status.stop()
        console.print(welcome(profile, state), markup=False, highlight=False, soft_wrap=True)
        with metrics_targets(state, profile.base_url), suppress(KeyboardInterrupt):
            threading.Event().wait()
        console.print("Stopping …")


def settings_of(
    model: str | None, device: str | None, store: str | None, files: str | None
) -> Tree:
    options = {
        "model": {"path": model, "device": device},
        "store": {"url": store},
        "files": {"root": files},
    }
    return {
        section: {key: value for key, value in given.items() if value is not None}
        for section, given in options.items()
    }


def welcome(profile: Profile, state: StateFolder) -> str:
    """What a user needs to call the service, each part ready to paste."""
    url, key = profile.base_url, state.api_key()
    model = profile.settings.model
    authority = state.tls / "ca.pem" if url.startswith("https:") else None
    lines = [
        f"Florence Serve is ready: {model.path} on {model.device}. Ctrl-C stops it.",
        *([DEMO_NOTE] if is_demo(model) else []),
        "",
        f"  Base URL  {url}",
        f"  API key   {key}",
        *([f"  Page      {url}/#key={key}"] if profile.settings.ingress.playground else []),
        "",
        "curl",
        curl(url, key, example_body(state), authority),
        "",
        "JavaScript (@fal-ai/client 1.10 or newer)",
        javascript(url, key, authority),
        "",
        "Python (fal-client 0.12 or newer)",
        python(url, key, authority) if authority else NEEDS_TLS,
        "",
    ]
    return "\n".join(lines)


def is_demo(model: ModelSettings) -> bool:
    folder = local_folder(model)  # the hub has no demo
    return folder is not None and Checkpoint(folder).is_demo


def example_body(state: StateFolder) -> Path:
    """A request body with a small scene, for the curl line."""
    from deployments.demo.scenes import draw_scene

    scene = draw_scene(random.Random(7), (256, 256))
    file = state.folder / "example.json"
    write_private(file, json.dumps({"image_url": data_uri_of(scene.image)}) + "\n")
    return file


def curl(url: str, key: str, body: Path, authority: Path | None) -> str:
    """A line that works when pasted."""
    words = ["curl", "-sS", *(["--cacert", str(authority)] if authority else [])]
    words += [f"{url}/{ENDPOINT}", "-H", f"Authorization: Key {key}"]
    words += ["-H", "Content-Type: application/json", "-d", f"@{body}"]
    return f"  {shlex.join(words)}"


def javascript(url: str, key: str, authority: Path | None) -> str:
    """The configuration of fal's JavaScript client, and one call."""
    trust = f"  export NODE_EXTRA_CA_CERTS={authority}\n" if authority else ""
    return (
        f"{trust}"
        f'  fal.config({{ credentials: "{key}", '
        f'proxyUrl: {{ url: "{url}/api/fal/proxy", when: "always" }} }});\n'
        f'  const {{ data }} = await fal.run("{ENDPOINT}", {{ input: {{ image_url }} }});'
    )


def python(url: str, key: str, authority: Path) -> str:
    """The environment of fal's Python client, and one call."""
    address = url.removeprefix("https://")
    return (
        f"  export SSL_CERT_FILE={authority}\n"
        f'  export FAL_KEY="{key}" FAL_RUN_HOST="{address}/run" '
        f'FAL_QUEUE_RUN_HOST="{address}/queue"\n'
        f'  fal_client.run("{ENDPOINT}", {{"image_url": fal_client.encode_file("photo.jpg")}})'
    )
