"""The service described for programs: all of it, or one endpoint as fal describes its own."""

from functools import cache
from typing import Any

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from deployments import __version__
from deployments.api import headers as orders
from deployments.api import operations
from deployments.api.dependencies import Services
from deployments.api.operations import SCHEMAS, SECURITY
from deployments.api.reading import add_reading
from deployments.errors import NotFound
from deployments.florence.tasks import TASKS, Task

TITLE = "Florence Serve"
VERSION = __version__
DESCRIPTION = (
    "Florence-2 behind fal's HTTP protocol. "
    "Every run is also served without the prefix `/run`, the queue also without `/queue` at a host "
    "whose name begins with `queue.`, and both at `/api/fal/proxy` with the header "
    "`x-fal-target-url`."
)
SECURITY_SCHEMES = {
    "apiKeyAuth": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Key <key>`",
    }
}


def router(services: Services) -> APIRouter:
    """`/openapi.json`."""
    routes = APIRouter()
    add_reading(
        routes, "/openapi.json", Documents(services.settings.ingress.public_url).get, "openapi"
    )
    return routes


class Documents:
    """The OpenAPI documents, with the address that the caller sees."""

    def __init__(self, public_url: str | None) -> None:
        self._public_url = public_url

    async def get(self, request: HttpRequest, endpoint_id: str | None = None) -> Response:
        """The document of the whole service, or of the endpoint `endpoint_id`."""
        base_url = orders.base_url(request, self._public_url)
        if endpoint_id is None:
            return JSONResponse(whole(request, base_url))
        task = next((task for task in TASKS.values() if task.endpoint == endpoint_id), None)
        if task is None:
            return JSONResponse(None, NotFound.status, NotFound().headers())
        return JSONResponse(document(task, base_url))


def whole(request: HttpRequest, base_url: str) -> dict[str, Any]:
    """Every route, in FastAPI's own dialect."""
    described: dict[str, Any] = request.app.openapi()
    schemas = schemas_of(tuple(TASKS.values()), GenerateJsonSchema)
    components = {
        "securitySchemes": SECURITY_SCHEMES,
        "schemas": schemas | described["components"]["schemas"],
    }
    return described | {"servers": [{"url": base_url}], "components": components}


def document(task: Task, base_url: str) -> dict[str, Any]:
    """One endpoint, in the dialect and the order of fal's documents."""
    return {
        "openapi": "3.0.4",
        "info": {
            "title": f"OpenAPI for {task.endpoint}",
            "version": VERSION,
            "description": (
                f"{task.summary}. Queued at {base_url}/queue/{task.endpoint}, "
                f"answered at once at {base_url}/run/{task.endpoint}."
            ),
            "x-fal-metadata": metadata(task, base_url),
        },
        "components": {
            "securitySchemes": SECURITY_SCHEMES,
            "schemas": schemas_of((task,), OpenApi30),
        },
        "servers": [{"url": f"{base_url}/queue"}],
        "security": SECURITY,
        "paths": paths(task),
    }


def paths(task: Task) -> dict[str, Any]:
    """The queue's four paths of one endpoint, as fal lists them."""
    request = f"/{task.endpoint}/requests/{{request_id}}"
    return {
        f"{request}/status": {"get": operations.status_operation()},
        f"{request}/cancel": {"put": operations.cancel_operation()},
        f"/{task.endpoint}": {"post": operations.submit_operation(task)},
        request: {"get": operations.result_operation(task.output)},
    }


def metadata(task: Task, base_url: str) -> dict[str, str]:
    """What fal's tools want to know of an endpoint."""
    return {
        "endpointId": task.endpoint,
        "category": "image-to-image" if "image" in task.output.model_fields else "vision",
        "playgroundUrl": f"{base_url}/",
        "documentationUrl": f"{base_url}/openapi.json?endpoint_id={task.endpoint}",
    }


@cache
def schemas_of(
    tasks: tuple[Task, ...], dialect: type[GenerateJsonSchema]
) -> dict[str, JsonSchemaValue]:
    """The schemas of all that `tasks` take and return, by name."""
    inputs = [task.input for task in tasks]
    outputs = [task.output for task in tasks] + list(operations.ANSWERS)
    _, definitions = models_json_schema(
        [(model, "validation") for model in inputs]
        + [(model, "serialization") for model in outputs],
        ref_template=SCHEMAS,
        schema_generator=dialect,
    )
    return {name: ordered(schema) for name, schema in definitions["$defs"].items()}


def ordered(schema: JsonSchemaValue) -> JsonSchemaValue:
    """`schema` with the order of its fields spelled out, as fal does."""
    return {"x-fal-order-properties": list(schema.get("properties", {}))} | schema


class OpenApi30(GenerateJsonSchema):
    """JSON Schema as OpenAPI 3.0 has it: `nullable` in place of the type `null`."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """A value that may be null."""
        inner = self.generate_inner(schema["schema"])
        # 3.0 ignores what stands beside a `$ref`, so that goes into an `allOf`
        return ({"allOf": [inner]} if "$ref" in inner else inner) | {"nullable": True}
