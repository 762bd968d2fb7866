"""The reference at /docs and /llms.txt: complete, and from the schemas of /openapi.json."""

import re
from html import unescape

import pytest

from deployments.florence.tasks import TASKS, Task

from .service import AUTHORIZED, Serve, Service


@pytest.fixture
def service(shared: Service) -> Service:
    """What is described is the same for all."""
    return shared


def example(text: str) -> str:
    """The JSON of the curl line in `text`."""
    found = re.search(r"-d '(\{.*?\n\})'", text, re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.path)
def test_an_endpoint_is_on_the_page(service: Service, task: Task) -> None:
    """With every field, and an example that the service takes as it stands."""
    text = service.client.get("/docs").text
    [part] = re.findall(rf'<section id="{task.path}">.*?</section>', text, re.DOTALL)

    for name in [*task.input.model_fields, *task.output.model_fields]:
        assert f"<code>{name}</code>" in part
    headers = AUTHORIZED | {"Content-Type": "application/json"}
    body = example(unescape(part)).encode()
    answer = service.client.post(f"/run/{task.endpoint}", content=body, headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.path)
def test_an_endpoint_is_described_for_language_models(service: Service, task: Task) -> None:
    """By its own text, which the list links to."""
    link = f"/llms.txt?endpoint_id={task.endpoint}"
    assert link in service.client.get("/llms.txt").text
    response = service.client.get(link)

    assert response.headers["content-type"] == "text/markdown; charset=utf-8"
    assert response.text.startswith(f"# {task.endpoint}\n")
    assert "- `image_url` (string, required): The URL" in response.text
    for name in task.output.model_fields:
        assert f"- `{name}` (" in response.text
    assert "- 429: " in response.text


def test_an_unknown_endpoint_is_not_described(service: Service) -> None:
    """It is not found."""
    assert service.client.get("/llms.txt?endpoint_id=fal-ai/other").status_code == 404


def test_nested_fields_are_listed(service: Service) -> None:
    """Boxes with their sides, regions with theirs."""
    text = service.client.get("/docs").text
    for name in ("results.bboxes[].x", "results.polygons[].points[].y", "region.x1", "image.url"):
        assert f"<code>{name}</code>" in text


def test_the_page_loads_nothing_from_elsewhere(service: Service) -> None:
    """Its links are relative, its policy is the playground's."""
    response = service.client.get("/docs")
    assert "default-src 'self';" in response.headers["content-security-policy"]
    assert not re.search(r'(?:src|<link[^>]*href)="(?:https?:)?//', response.text)
    known = {"If-None-Match": response.headers["etag"]}
    assert service.client.get("/docs", headers=known).status_code == 304


def test_it_goes_with_the_page_for_people(serve: Serve) -> None:
    """Programs keep theirs."""
    service = serve(ingress={"playground": False})
    assert service.client.get("/docs").status_code == 404
    assert service.client.get("/llms.txt").status_code == 200
