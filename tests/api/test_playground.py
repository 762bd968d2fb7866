"""The page for people: who gets it, how it is sent, and that its tables are the service's own."""

import gzip
import json
import random
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deployments.api.playground import CONTENT_TYPES, FOLDER
from deployments.demo.scenes import draw_mixed_scene
from deployments.florence.tasks import TASKS
from deployments.settings import DEMO_CHECKPOINT
from tests.acceptance.client_scripts import node

from .service import Serve, Service

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"
FILES = sorted(file for file in FOLDER.rglob("*") if file.is_file())
MODULES = [file for file in FILES if file.suffix == ".js"]
MAX_BYTES = 120_000
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


@pytest.fixture
def service(shared: Service) -> Service:
    """The page is the same for all."""
    return shared


def address(file: Path) -> str:
    """Where a file of the page is served."""
    return f"/playground/{file.relative_to(FOLDER).as_posix()}"


def page(service: Service, path: str = "/", **headers: str) -> Any:
    """What a browser gets."""
    return service.client.get(path, headers={"Accept": BROWSER} | headers)


class Links(HTMLParser):
    """The addresses that a page loads, and whether it has scripts of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """One element."""
        given = dict(attributes)
        if tag in ("script", "link", "img"):
            self.found.append(str(given.get("src") or given.get("href")))
        self.inline += tag == "style" or (tag == "script" and "src" not in given)
        self.inline += any(name == "style" or name.startswith("on") for name in given)


def evaluated(module: str, expression: str) -> Any:
    """The value of a JavaScript expression over what a module of the page exports."""
    script = f'import * as m from "{FOLDER / module}"; console.log(JSON.stringify({expression}))'
    command = [node(), "--input-type=module", "--no-warnings", "--eval", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_a_browser_gets_the_page(service: Service) -> None:
    """HEAD as well; a program that names no HTML gets JSON as ever."""
    response = page(service)

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Florence Serve</title>" in response.text
    assert service.client.head("/", headers={"Accept": BROWSER}).status_code == 200
    for accept in ("*/*", "application/json", ""):
        answer = service.client.get("/", headers={"Accept": accept})
        assert answer.json()["name"] == "Florence Serve"
        assert answer.headers["vary"] == "Accept"


def test_what_differs_is_said_beside_the_origin(serve: Serve) -> None:
    """A cache between must not give one browser the JSON of another program."""
    service = serve(ingress={"cors_origins": ["https://app.example.com"]})
    assert page(service).headers["vary"] == "Accept, Accept-Encoding, Origin"


def test_the_page_can_be_turned_off(serve: Serve) -> None:
    """Then its files are gone, and a browser gets JSON."""
    service = serve(ingress={"playground": False})

    assert page(service).json()["name"] == "Florence Serve"
    assert service.client.get("/playground/page.js").status_code == 404


@each_file
def test_every_file_is_served_without_a_key(service: Service, file: Path) -> None:
    """With its type, which the browser must not guess."""
    response = page(service, address(file), **{"Accept-Encoding": "identity"})

    assert response.status_code == 200
    assert response.content == file.read_bytes()
    assert response.headers["content-type"] == CONTENT_TYPES[file.suffix]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "content-encoding" not in response.headers


def test_texts_are_sent_compressed(service: Service) -> None:
    """To a browser that can read that, from bytes made at the start."""
    whole = service.client.get("/playground/page.js", headers={"Accept-Encoding": "identity"})
    path = "/playground/page.js"
    with service.client.stream("GET", path, headers={"Accept-Encoding": "gzip, br"}) as small:
        body = b"".join(small.iter_raw())

    assert small.headers["content-encoding"] == "gzip"
    assert gzip.decompress(body) == whole.content
    assert len(body) < len(whole.content) / 2
    assert "Accept-Encoding" in small.headers["vary"]
    assert small.headers["etag"] != whole.headers["etag"]


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_what_a_browser_has_is_not_sent_again(service: Service, encoding: str) -> None:
    """It asks each time, so that a new version is seen at once."""
    first = page(service, "/playground/style.css", **{"Accept-Encoding": encoding})
    known = {"If-None-Match": first.headers["etag"], "Accept-Encoding": encoding}
    second = page(service, "/playground/style.css", **known)

    assert first.headers["cache-control"] == "no-cache"
    assert (second.status_code, second.content) == (304, b"")
    assert page(service, "/playground/style.css", **{"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize("path", ["nothing.js", "../settings.py", "%2e%2e/settings.py", "samples"])
def test_nothing_else_is_served(service: Service, path: str) -> None:
    """Only what was read from the folder at the start has a name."""
    assert page(service, f"/playground/{path}").status_code == 404


@pytest.mark.parametrize("path", ["/", "/playground/page.js"])
def test_the_page_may_load_nothing_from_elsewhere(service: Service, path: str) -> None:
    """Nor run a script that is written into it, nor be framed."""
    policy = page(service, path).headers["content-security-policy"]

    assert "default-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy


def test_what_the_page_names_is_here(service: Service) -> None:
    """Every module is loaded at once, by a relative address, which holds behind any prefix."""
    links = Links()
    links.feed(page(service).text)

    assert links.inline == 0
    assert {f"/{link}" for link in links.found} >= {address(file) for file in MODULES}
    for link in links.found:
        assert not re.match(r"/|\w+:", link)
        assert page(service, f"/{link}").status_code == 200


@pytest.mark.parametrize(("name", "seed"), [("words", 134), ("both", 46)])
def test_samples_are_scenes_of_the_demo(name: str, seed: int) -> None:
    """Drawn by the code that its training used."""
    drawn = draw_mixed_scene(random.Random(seed), (640, 480)).image
    with Image.open(FOLDER / "samples" / f"{name}.png") as sample:
        assert sample.convert("RGB").tobytes() == drawn.tobytes()


def test_the_first_sample_is_the_scene_of_the_readme() -> None:
    """The one that the first request sends."""
    scene = DEMO_CHECKPOINT.parent / "scene.png"
    assert (FOLDER / "samples" / "shapes.png").read_bytes() == scene.read_bytes()


def test_the_page_is_small() -> None:
    """Before compression, with its samples."""
    assert sum(file.stat().st_size for file in FILES) < MAX_BYTES


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.name)
def test_modules_write_no_html_and_name_no_other_host(file: Path) -> None:
    """Text of an answer stays text; fal's hosts stand in the code of a call alone."""
    text = file.read_text()

    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
    hosts = set(re.findall(r"https?:\\?/\\?/(\w[\w.]+)", text))
    assert hosts <= ({"fal.run", "queue.fal.run", "rest"} if file.name == "snippets.js" else set())


def test_the_page_knows_every_task() -> None:
    """With its input, and a name for people."""
    shown = evaluated("tasks.js", "m.TASKS")
    needs = {
        path: next((n for n in ("text_input", "region") if n in task.input.model_fields), "")
        for path, task in TASKS.items()
    }

    assert {each["path"]: each["needs"] for each in shown} == needs
    assert len(shown) == len(TASKS)
    assert set(evaluated("text.js", "Object.keys(m.text.task.names)")) == set(TASKS)
    assert {each["group"] for each in shown} == {"find", "read", "segment", "describe"}


def test_shapes_are_those_of_the_answer() -> None:
    """Boxes, quads and polygons; a text has none."""
    point = {"x": 1, "y": 2}
    corners = [point, {"x": 5, "y": 2}, {"x": 5, "y": 8}]
    box = {"x": 1, "y": 2, "w": 4, "h": 6}
    outputs = [
        {"results": {"bboxes": [box | {"label": "a", "score": 0.5}]}},
        {"results": {"quad_boxes": [box | {"label": "b", "points": corners}]}},
        {"results": {"polygons": [{"points": corners, "label": ""}]}},
        {"results": "words"},
    ]
    found = evaluated("shapes.js", f"{json.dumps(outputs)}.map(m.shapesOf)")

    assert [[each["kind"] for each in shapes] for shapes in found] == [
        ["box"],
        ["quad"],
        ["polygon"],
        [],
    ]
    assert [shapes[0]["box"] for shapes in found[:3]] == [box] * 3
    assert found[0][0]["score"] == 0.5
    assert found[1][0]["score"] is None


def test_coco_is_what_its_readers_expect() -> None:
    """Categories by label, boxes as x, y, width and height, outlines as flat lists, areas."""
    box = {"x": 1, "y": 2, "w": 4, "h": 6, "label": "a"}
    triangle = [{"x": 0, "y": 0}, {"x": 4, "y": 0}, {"x": 0, "y": 4}]
    picture = {"name": "a.png", "width": 10, "height": 20}
    outputs = [
        {"results": {"bboxes": [box, box | {"label": "b", "score": 0.25}]}},
        {"results": {"polygons": [{"points": triangle, "label": "a"}]}},
    ]
    data = evaluated(
        "shapes.js",
        f"m.coco({json.dumps(picture)}, {json.dumps(outputs)}.flatMap(m.shapesOf))",
    )

    assert data["images"] == [{"id": 1, "file_name": "a.png", "width": 10, "height": 20}]
    assert data["categories"] == [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    assert [each["category_id"] for each in data["annotations"]] == [1, 2, 1]
    assert [each["area"] for each in data["annotations"]] == [24, 24, 8]
    assert data["annotations"][1]["score"] == 0.25
    assert data["annotations"][0]["bbox"] == [1, 2, 4, 6]
    assert data["annotations"][2]["segmentation"] == [[0, 0, 4, 0, 0, 4]]
