"""The blocks of docs/javascript.md and docs/python.md, run as they are printed.

Replaced are the address (by the service's, behind TLS), the key and the file of the authority.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from deployments.demo.scoring import match_boxes
from deployments.local.state import StateFolder
from deployments.local.tls import certificates
from tests.acceptance import test_python_client as python_client
from tests.acceptance.caller import Caller, scene, truth, uri
from tests.acceptance.client_scripts import NEWEST, OLDEST, installed, node
from tests.acceptance.snippets import ROOT, blocks, replaced, run_shell
from tests.acceptance.tls_proxy import TlsProxy

JAVASCRIPT, PYTHON = "docs/javascript.md", "docs/python.md"
ADDRESS, KEY, AUTHORITY = "florence.example.com", "florence-…", "/etc/ssl/private-ca.pem"
CONFIGURATIONS = [text for text in blocks(JAVASCRIPT, "js") if "fal.config(" in text]
BY_PROXY, BY_MIDDLEWARE, GUARDED = CONFIGURATIONS
[STREAM] = [text for text in blocks(JAVASCRIPT, "js") if text not in CONFIGURATIONS]
ENVIRONMENT, OLDER_ENVIRONMENT = blocks(PYTHON, "sh")
SUBSCRIBE, PYTHON_STREAM, UPLOAD_HOSTS, ASSERTION = blocks(PYTHON, "python")

BEFORE_JAVASCRIPT = """
import { fal } from "@fal-ai/client";
const { KEY, IMAGE_URL: image_url } = process.env;
const drawn = [];
const draw = (boxes) => drawn.push(boxes.length);
"""
AFTER_JAVASCRIPT = """
console.log(JSON.stringify({ results, image, drawn }));
"""
BEFORE_PYTHON = """
import json, os
import tests.clients.loopback  # queue.localhost is this machine
url = os.environ["IMAGE_URL"]
drawn = []
draw = lambda boxes: drawn.append(len(boxes))
"""
AFTER_PYTHON = """
url = fal_client.upload_file("car.jpg")
result = fal_client.run("fal-ai/florence-2-large/region-proposal", {"image_url": url})
print(json.dumps({"results": result["results"], "url": url, "drawn": drawn}))
"""


def check(answer: dict[str, Any], seed: int) -> None:
    """The boxes are those of the scene."""
    pairs = match_boxes(truth(scene(seed)), answer["results"]["bboxes"])
    assert min(pair.iou for pair in pairs) >= 0.5


@pytest.mark.parametrize(
    ("configuration", "version"),
    [(BY_PROXY, NEWEST), (BY_MIDDLEWARE, NEWEST), (BY_MIDDLEWARE, OLDEST), (GUARDED, NEWEST)],
    ids=["proxyUrl", "middleware", "middleware, oldest", "guarded"],
)
def test_javascript(
    configuration: str,
    version: str,
    caller: Caller,
    front: TlsProxy,
    state: StateFolder,
    tmp_path: Path,
) -> None:
    """Each configuration sends everything to the service; the stream is the one of the page."""
    host = f"localhost:{front.port}"
    (tmp_path / "node_modules").symlink_to(installed(version) / "node_modules")
    script = tmp_path / "page.mjs"
    configured = replaced(configuration, (ADDRESS, host))
    script.write_text(BEFORE_JAVASCRIPT + configured + STREAM + AFTER_JAVASCRIPT)

    environment = {
        "KEY": caller.key,
        "IMAGE_URL": uri(scene(3).image),
        "NODE_EXTRA_CA_CERTS": str(certificates(state.tls).authority),
    }
    answer = json.loads(run_shell(f"{node()} {script}", environment))

    check(answer, 3)
    assert answer["image"]["url"].startswith(f"https://{host}/")
    assert answer["drawn"] == sorted(answer["drawn"])
    if version == NEWEST:  # the older one loses an event that comes right before the end
        assert answer["drawn"][-1] == len(scene(3).objects)


@pytest.mark.parametrize("version", [python_client.NEWEST, python_client.OLDER])
def test_python(
    version: str, caller: Caller, front: TlsProxy, state: StateFolder, tmp_path: Path
) -> None:
    """The environment, the calls and the upload are those of the page."""
    is_older = version == python_client.OLDER
    host = f"localhost:{front.port}"
    authority = str(certificates(state.tls).authority)
    environment = replaced(ENVIRONMENT, (ADDRESS, host), (KEY, caller.key), (AUTHORITY, authority))
    if is_older:
        environment += replaced(OLDER_ENVIRONMENT, (ADDRESS, host))
    shutil.copy(ROOT / "deployments" / "demo" / "scene.png", tmp_path / "car.jpg")
    calls = SUBSCRIBE + PYTHON_STREAM + replaced(UPLOAD_HOSTS + ASSERTION, (ADDRESS, host))
    (tmp_path / "page.py").write_text(BEFORE_PYTHON + calls + AFTER_PYTHON)

    packages = [str(python_client.installed(version))] if is_older else []
    paths = {"IMAGE_URL": uri(scene(3).image), "PYTHONPATH": ":".join([*packages, str(ROOT)])}
    answer = json.loads(run_shell(f"{environment}{sys.executable} page.py", paths, tmp_path))

    assert len(answer["results"]["bboxes"]) == 3
    assert answer["url"].startswith(f"https://{host}/")
    assert answer["drawn"][-1] == len(scene(3).objects)
