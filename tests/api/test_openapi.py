"""The OpenAPI documents."""

import re
from pathlib import Path
from typing import Any

import pytest

from deployments.florence.tasks import TASKS, Task

from .service import Serve, Service


@pytest.fixture
def service(shared: Service) -> Service:
    """What is described is the same for all."""
    return shared


def document(service: Service, endpoint: str) -> Any:
    """The document of one endpoint."""
    return service.client.get("/openapi.json", params={"endpoint_id": endpoint}).json()


def refs_in(value: Any) -> list[str]:
    """Every `$ref` in a document."""
    if isinstance(value, list):
        return [ref for item in value for ref in refs_in(item)]
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + refs_in(list(value.values()))
    return []


def resolve(described: Any, ref: str) -> Any:
    """What `ref` points to."""
    for part in ref.removeprefix("#/").split("/"):
        described = described[part]
    return described


def answer_of(operation: Any) -> str:
    """The schema of a good answer."""
    return str(operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"])


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.path)
def test_endpoint_is_described_as_fal_does(service: Service, task: Task) -> None:
    """A document is OpenAPI 3.0 with fal's metadata, the queue's four paths, and all schemas."""
    described = document(service, task.endpoint)

    assert described["openapi"].startswith("3.0.")
    assert described["info"]["x-fal-metadata"]["endpointId"] == task.endpoint
    assert described["servers"] == [{"url": "http://testserver/queue"}]
    request = f"/{task.endpoint}/requests/{{request_id}}"
    assert {path: list(methods) for path, methods in described["paths"].items()} == {
        f"/{task.endpoint}": ["post"],
        request: ["get"],
        f"{request}/status": ["get"],
        f"{request}/cancel": ["put"],
    }
    post = described["paths"][f"/{task.endpoint}"]["post"]
    given = resolve(described, post["requestBody"]["content"]["application/json"]["schema"]["$ref"])
    asked = [name for name in ("text_input", "region") if name in task.input.model_fields]
    assert given["required"] == ["image_url", *asked]
    assert given["x-fal-order-properties"] == list(task.input.model_fields)
    assert given["properties"]["num_beams"]["minimum"] == 1
    assert answer_of(post).endswith("/QueueStatus")
    assert answer_of(described["paths"][f"{request}/status"]["get"]).endswith("/QueueStatus")
    answer = answer_of(described["paths"][request]["get"])
    assert list(resolve(described, answer)["properties"]) == list(task.output.model_fields)


@pytest.mark.parametrize(
    ("path", "category"), [("region-proposal", "image-to-image"), ("caption", "vision")]
)
def test_category_follows_the_output(service: Service, path: str, category: str) -> None:
    """An endpoint that returns a picture is in fal's category for that."""
    metadata = document(service, TASKS[path].endpoint)["info"]["x-fal-metadata"]

    assert metadata["category"] == category
    assert service.client.get(metadata["documentationUrl"]).status_code == 200


@pytest.mark.parametrize("query", ["", "?endpoint_id=fal-ai/florence-2-large/object-detection"])
def test_every_reference_resolves(service: Service, query: str) -> None:
    """No document points to a schema that it does not have."""
    described = service.client.get(f"/openapi.json{query}").json()

    refs = refs_in(described)
    assert refs
    assert all(resolve(described, ref) for ref in refs)


def test_what_the_queue_says_fits_its_schema(service: Service) -> None:
    """The fields of a status are those described, and those that every client needs are a must."""
    schema = document(service, "fal-ai/florence-2-large/caption")["components"]["schemas"]
    status = service.get(service.submit().json()["status_url"]).json()

    assert set(status) <= set(schema["QueueStatus"]["properties"])
    assert {"status", "request_id", "response_url"} <= set(schema["QueueStatus"]["required"])
    assert schema["QueueStatus"]["properties"]["status"]["enum"] == [
        "IN_QUEUE",
        "IN_PROGRESS",
        "COMPLETED",
    ]


def test_null_is_said_as_3_0_says_it(service: Service) -> None:
    """OpenAPI 3.0 has no type `null`; an optional picture is nullable."""
    described = document(service, "fal-ai/florence-2-large/region-proposal")

    assert "'null'" not in str(described)
    image = described["components"]["schemas"]["BoundingBoxOutput"]["properties"]["image"]
    assert image["nullable"] is True
    assert image["allOf"] == [{"$ref": "#/components/schemas/Image"}]


@pytest.mark.parametrize("endpoint", ["", "nope", "region-proposal", "fal-ai/florence-2-large"])
def test_unknown_endpoints_are_null(service: Service, endpoint: str) -> None:
    """fal answers 404 with `null` for an endpoint that does not exist."""
    response = service.client.get("/openapi.json", params={"endpoint_id": endpoint})

    assert (response.status_code, response.content) == (404, b"null")


def test_whole_service_is_described(service: Service) -> None:
    """The document of the service has every route, with its body, its key and its errors."""
    described = service.client.get("/openapi.json").json()

    runs = {f"/run/{task.endpoint}" for task in TASKS.values()}
    streams = {f"{path}/stream" for path in runs}
    submits = {f"/queue/{task.endpoint}" for task in TASKS.values()}
    request = "/queue/fal-ai/florence-2-large/requests/{request_id}"
    queue = {request, f"{request}/status", f"{request}/status/stream", f"{request}/cancel"}
    pages = {"/", "/health", "/ready", "/metrics", "/openapi.json", "/cdn/files/{name}"}
    assert runs | streams | submits | queue | pages <= set(described["paths"])
    for path in described["paths"]:
        if path.startswith("/queue"):
            (operation,) = described["paths"][path].values()
            assert operation["security"] == [{"apiKeyAuth": []}]
            assert "{request_id}" not in path or operation["parameters"][0]["in"] == "path"
    for path in runs | streams | submits:
        post = described["paths"][path]["post"]
        assert post["security"] == [{"apiKeyAuth": []}]
        assert post["requestBody"]["required"] is True
        assert {"200", "400", "401", "422", "429", "500", "503", "504"} == set(post["responses"])
    for path in streams:
        answer = described["paths"][path]["post"]["responses"]["200"]
        assert list(answer["content"]) == ["text/event-stream"]
    assert "apiKeyAuth" in described["components"]["securitySchemes"]


def test_documents_name_the_public_address(serve: Serve) -> None:
    """The configured address is the server in the documents."""
    service = serve(ingress={"public_url": "https://florence.example.com/"})

    for query in ("", "?endpoint_id=fal-ai/florence-2-large/caption"):
        described = service.client.get(f"/openapi.json{query}").json()
        prefix = "/queue" if query else ""
        assert described["servers"] == [{"url": f"https://florence.example.com{prefix}"}]


def test_the_page_of_the_api_names_routes_that_exist(service: Service) -> None:
    """Each route of docs/api.md is in the service's document, with its method."""
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    rows = re.findall(r"^\| (`/?[^|]+) \|", page, re.MULTILINE)
    named = [route for row in rows for route in re.findall(r"`(?:([A-Z]+) )?(/[^`]+)`", row)]
    named = [(method, path) for method, path in named if method != "ANY"]  # the proxy's
    paths = service.client.get("/openapi.json").json()["paths"]

    assert len(named) > 12
    assert [route for route in named if not is_described(paths, *route)] == []


def is_described(paths: dict[str, Any], method: str, route: str) -> bool:
    """Whether a path of the document is this route; `TASK`, `ID` and `NAME` stand for any value."""
    pattern = re.sub(r"TASK|ID|NAME", "[^/]+", re.escape(route))
    found = [path for path in paths if re.fullmatch(pattern, path)]
    return any(not method or method.lower() in paths[path] for path in found)
