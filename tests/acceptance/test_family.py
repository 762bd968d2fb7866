"""All fourteen endpoints, by fal's own clients and by curl, from fal's own examples.

What the checkpoint answers is not looked at: only that it has fal's published form.
"""

import io
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deployments.florence.tasks import TASKS
from deployments.local.state import StateFolder
from deployments.local.tls import certificates
from tests.acceptance.caller import APP, Caller, scene
from tests.acceptance.client_scripts import (
    NEWEST,
    OLDEST,
    ROOT,
    SCRIPTS,
    Node,
    installed,
    node,
    run_script,
)
from tests.acceptance.origin import Origin
from tests.acceptance.test_python_client import VERSIONS, hosts
from tests.acceptance.tls_proxy import TlsProxy

SPECIAL = re.compile(r"</?(s|pad|unk|mask|image|loc_[0-9]+)>")
SIZE = (640, 480)
WORDS = {"text_input": ""}
REGION = {"region": {"x1": 100, "y1": 100, "x2": 200, "y2": 200}}


@dataclass(frozen=True)
class Published:
    """What fal's pages say of an endpoint: the key of its shapes, None for text, and its input."""

    shapes: str | None
    input: Mapping[str, Any]


PUBLISHED = {
    "object-detection": Published("bboxes", {}),
    "dense-region-caption": Published("bboxes", {}),
    "region-proposal": Published("bboxes", {}),
    "open-vocabulary-detection": Published("bboxes", WORDS),
    "caption-to-phrase-grounding": Published("bboxes", WORDS),
    "referring-expression-segmentation": Published("polygons", WORDS),
    "region-to-segmentation": Published("polygons", REGION),
    "ocr-with-region": Published("quad_boxes", {}),
    "caption": Published(None, {}),
    "detailed-caption": Published(None, {}),
    "more-detailed-caption": Published(None, {}),
    "ocr": Published(None, {}),
    "region-to-category": Published(None, REGION),
    "region-to-description": Published(None, REGION),
}
WAYS = {
    f"javascript {NEWEST}": ("run", "subscribe", "stream"),
    f"javascript {OLDEST}": ("run", "subscribe", "stream"),
    **{f"python {version}": ("run", "subscribe", "submit", "stream") for version in VERSIONS},
    "curl": ("run", "submit"),
}
TSC_OPTIONS = (
    "--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022",
)  # fmt: skip

Answers = dict[str, dict[str, Any]]  # by endpoint and way


@pytest.fixture(scope="module")
def inputs(origin: Origin) -> dict[str, dict[str, Any]]:
    """fal's example of each endpoint, about another picture."""
    url = f"{origin.url}/scene.png"
    return {
        f"{APP.strip('/')}/{task}": {"image_url": url, **PUBLISHED[task].input}
        for task in PUBLISHED
    }


@pytest.fixture(scope="module")
def answers(
    caller: Caller,
    front: TlsProxy,
    state: StateFolder,
    inputs: dict[str, dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, "Future[Answers]"]]:
    """What every client was answered; they ask at the same time."""
    here = {"BASE_URL": caller.url, "KEY": caller.key, "INPUTS": json.dumps(inputs)}
    host = f"localhost:{front.port}"
    secure = {
        "SSL_CERT_FILE": str(certificates(state.tls).authority),
        "FAL_KEY": caller.key,
        "INPUTS": json.dumps(inputs),
    }

    def javascript(version: str, way: str) -> Answers:
        folder = tmp_path_factory.mktemp("client")
        return by_endpoint(Node(folder, installed(version)).run("family.mjs", here | {"WAY": way}))

    def python(version: str) -> Answers:
        command = [str(ROOT / ".venv" / "bin" / "python"), "-m", "tests.clients.family_calls"]
        return by_endpoint(run_script(command, ROOT, secure | hosts(version, host)))

    def curl() -> Answers:
        return {endpoint: by_curl(endpoint, each, here) for endpoint, each in inputs.items()}

    with ThreadPoolExecutor() as threads:
        yield {
            f"javascript {NEWEST}": threads.submit(javascript, NEWEST, "proxyUrl"),
            f"javascript {OLDEST}": threads.submit(javascript, OLDEST, "requestMiddleware"),
            **{f"python {version}": threads.submit(python, version) for version in VERSIONS},
            "curl": threads.submit(curl),
        }


def by_endpoint(printed: list[Any]) -> Answers:
    """The answers that a script has printed."""
    return {each["endpoint"]: each["answers"] for each in printed}


def by_curl(endpoint: str, given: Any, environment: dict[str, str]) -> dict[str, Any]:
    """The answers of one endpoint to curl."""
    more = {"ENDPOINT": endpoint, "INPUT": json.dumps(given)}
    run, submit = run_script(["sh", str(SCRIPTS / "family.sh")], ROOT, environment | more)
    return {"run": run, "submit": submit}


def test_all_that_fal_has_is_served() -> None:
    """And no other path."""
    assert set(TASKS) == set(PUBLISHED)


@pytest.mark.parametrize("client", WAYS)
def test_every_endpoint_answers_in_its_published_form(
    answers: dict[str, "Future[Answers]"], inputs: Mapping[str, Any], client: str
) -> None:
    """However it is asked: shapes with their picture, which has the input's size, or text."""
    found = answers[client].result()

    assert found.keys() == inputs.keys()
    for endpoint, ways in found.items():
        assert tuple(ways) == WAYS[client]
        for answer in ways.values():
            check(endpoint.rpartition("/")[2], answer)


def check(task: str, answer: Any) -> None:
    """The answer has the form of the task."""
    shapes = PUBLISHED[task].shapes
    TASKS[task].output.model_validate(answer, strict=True)
    if shapes is None:
        assert answer.keys() == {"results"}
        assert isinstance(answer["results"], str)
        assert not SPECIAL.search(answer["results"])
        return
    assert answer.keys() == {"results", "image"}
    assert answer["results"].keys() == {shapes}
    assert (answer["image"]["width"], answer["image"]["height"]) == SIZE
    for shape in answer["results"][shapes]:
        assert is_inside(shape)


def is_inside(shape: Mapping[str, Any]) -> bool:
    """Whether a shape has an extent, and lies in the picture."""
    points = [(point["x"], point["y"]) for point in shape.get("points", ())]
    if "x" in shape:
        assert min(shape["w"], shape["h"]) > 0
        points += [(shape["x"], shape["y"]), (shape["x"] + shape["w"], shape["y"] + shape["h"])]
    else:
        assert len(points) >= 3
    return all(0 <= x <= SIZE[0] + 0.01 and 0 <= y <= SIZE[1] + 0.01 for x, y in points)


def test_fals_published_types_accept_every_answer(
    answers: dict[str, "Future[Answers]"], tmp_path: Path
) -> None:
    """The TypeScript types of the client, as a program that is written against it sees them."""
    lines = ['import type { OutputType } from "@fal-ai/client";']
    for found in answers.values():
        for endpoint, ways in found.result().items():
            for answer in ways.values():
                name = f"answer{len(lines)}"
                lines.append(f"const {name} = {json.dumps(known(answer))};")
                lines.append(f'export const typed_{name}: OutputType<"{endpoint}"> = {name};')
    packages = installed(NEWEST, ("typescript@5.9.3",)) / "node_modules"
    (tmp_path / "node_modules").symlink_to(packages)
    (tmp_path / "answers.ts").write_text("\n".join(lines))
    command = [node(), str(packages / "typescript" / "bin" / "tsc"), *TSC_OPTIONS, "answers.ts"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    assert len(lines) > 2 * len(PUBLISHED) * len(WAYS)
    assert (done.returncode, done.stdout) == (0, "")


def known(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer without what is null: fal's types call optional what its schemas call nullable."""
    given = {name: value for name, value in answer.items() if value is not None}
    if "image" in given:
        image = given["image"]
        given["image"] = {name: value for name, value in image.items() if value is not None}
    return given


def test_the_picture_is_the_size_that_it_is_said_to_have(
    answers: dict[str, "Future[Answers]"], caller: Caller
) -> None:
    """A program takes a mask's size from it."""
    for ways in answers["curl"].result().values():
        for answer in ways.values():
            if "image" in answer:
                picture = caller.http.get(answer["image"]["url"])
                with Image.open(io.BytesIO(picture.content)) as image:
                    assert image.size == scene(0).image.size == SIZE
