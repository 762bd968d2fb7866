"""`florence serve`: the service on this machine, until Ctrl-C."""

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from deployments.errors import SetupError
from deployments.florence.tasks import APP
from deployments.local.client import data_uri_of
from deployments.local.haproxy import ON
from deployments.local.launch import exporters, free_port, running
from deployments.local.profile import Profile, Tree, compose, laid_over, tree_of
from deployments.local.state import State, write_private
from deployments.local.tls import certificates

ENDPOINT = f"{APP}/region-proposal"


def serve_forever(
    host: str,
    port: int,
    model: str | None,
    state_folder: Path,
    tls: bool,
    haproxy: bool,
    device: str | None,
    store: str | None,
    files: str | None,
    sets: list[str],
) -> None:
    """Start, say how to call, wait for Ctrl-C or SIGTERM, and stop.

    Raises:
        SetupError: something is wrong; nothing is left running.
    """
    if haproxy and tls:
        raise SetupError("HAProxy serves plain http here: leave --tls or --haproxy out")
    console = Console()
    state = State(state_folder)
    chosen = laid_over(options(model, device, store, files), tree_of(sets))
    profile = local_profile(state, host, port, chosen, tls, haproxy)
    with console.status("Starting Ray and loading the model …") as status, running(profile):
        status.stop()
        text = welcome(profile, state, tls)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        with told(state), suppress(KeyboardInterrupt):
            threading.Event().wait()
        console.print("Stopping …")


@contextmanager
def told(state: State) -> Iterator[None]:
    """Leave the addresses of metrics in the state folder inside the block."""
    targets = [{"targets": exporters(), "labels": {"job": "florence"}}]
    write_private(state.targets, json.dumps(targets) + "\n")
    try:
        yield
    finally:
        state.targets.unlink(missing_ok=True)


def options(model: str | None, device: str | None, store: str | None, files: str | None) -> Tree:
    """The settings behind the flags."""
    named = {
        "model": {"path": model, "device": device},
        "store": {"url": store},
        "files": {"root": files},
    }
    return {
        section: {key: value for key, value in given.items() if value is not None}
        for section, given in named.items()
    }


def local_profile(
    state: State, host: str, port: int, args: Tree, tls: bool, haproxy: bool = False
) -> Profile:
    """The laptop's profile with this state, address, settings and front.

    Raises:
        SetupError: a setting is wrong.
    """
    own = state.settings | {"keys": {"hashes": state.key_hashes()}}
    http: Tree = {"host": host, "port": port or free_port(host)}
    if tls:
        found = certificates(state.tls, host)
        http |= {"ssl_certfile": str(found.server), "ssl_keyfile": str(found.server_key)}
    profile = compose(laid_over(own, args), http)
    if profile.settings.model.device == "cuda":
        profile.options["Inference"]["ray_actor_options"]["num_gpus"] = 1
    if haproxy:
        profile.environment[ON] = "1"
    return profile


def welcome(profile: Profile, state: State, tls: bool) -> str:
    """What a user needs to call the service, each part ready to paste."""
    url, key = profile.base_url, state.api_key()
    model = profile.settings.model
    authority = state.tls / "ca.pem" if tls else None
    lines = [
        f"Florence Serve is ready: {model.path} on {model.device}. Ctrl-C stops it.",
        "",
        f"  Base URL  {url}",
        f"  API key   {key}",
        "",
        "curl",
        curl(url, key, example(state), authority),
        "",
        "JavaScript (@fal-ai/client 1.10 or newer)",
        javascript(url, key, authority),
        "",
        "Python (fal-client 1.0 or newer)",
        python(url, key, authority) if authority else NEEDS_TLS,
        "",
    ]
    return "\n".join(lines)


NEEDS_TLS = "  fal's Python client speaks https only: start again with --tls"


def example(state: State) -> Path:
    """A request body with a small scene, for the curl line."""
    from deployments.demo.scenes import draw_scene

    scene = draw_scene(random.Random(7), (256, 256))
    file = state.folder / "example.json"
    write_private(file, json.dumps({"image_url": data_uri_of(scene.image)}) + "\n")
    return file


def curl(url: str, key: str, body: Path, authority: Path | None) -> str:
    """A line that works when pasted."""
    trust = f"--cacert {authority} " if authority else ""
    return (
        f"  curl -sS {trust}{url}/{ENDPOINT} -H 'Authorization: Key {key}' "
        f"-H 'Content-Type: application/json' -d @{body}"
    )


def javascript(url: str, key: str, authority: Path | None) -> str:
    """The configuration of fal's JavaScript client and one call."""
    trust = f"  export NODE_EXTRA_CA_CERTS={authority}\n" if authority else ""
    return (
        f"{trust}"
        f'  fal.config({{ credentials: "{key}", '
        f'proxyUrl: {{ url: "{url}/api/fal/proxy", when: "always" }} }});\n'
        f'  const {{ data }} = await fal.run("{ENDPOINT}", {{ input: {{ image_url }} }});'
    )


def python(url: str, key: str, authority: Path) -> str:
    """The environment of fal's Python client and one call."""
    address = url.removeprefix("https://")
    return (
        f"  export SSL_CERT_FILE={authority}\n"
        f'  export FAL_KEY="{key}" FAL_RUN_HOST="{address}/run" '
        f'FAL_QUEUE_RUN_HOST="{address}/queue"\n'
        f'  fal_client.run("{ENDPOINT}", {{"image_url": fal_client.encode_file("photo.jpg")}})'
    )
