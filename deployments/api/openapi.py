"""The service described for programs: as a whole, or one endpoint as fal describes its own.

FastAPI sees little of a route by itself, because bodies are read, and answers written, by hand;
so each route brings its operation from here.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from deployments import __version__
from deployments.api.dependencies import Dependencies
from deployments.api.headers import base_url
from deployments.api.responses import (
    Cancelled,
    ErrorResponse,
    FailureResponse,
    InputErrorResponse,
    QueueStatus,
)
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
SCHEMAS = "#/components/schemas/{model}"
ERRORS: dict[int, tuple[type[BaseModel], str]] = {
    400: (ErrorResponse, "A header or the query cannot be understood"),
    401: (ErrorResponse, "There is no key, or a wrong one"),
    422: (InputErrorResponse, "The input cannot be used"),
    429: (ErrorResponse, "Too many requests are waiting; try again"),
    500: (FailureResponse, "Something went wrong on our side"),
    503: (ErrorResponse, "A part of the service is missing; try again"),
    504: (ErrorResponse, "The time is over"),
}
ANSWERS: tuple[type[BaseModel], ...] = (
    ErrorResponse,
    InputErrorResponse,
    FailureResponse,
    QueueStatus,
    Cancelled,
)
SECURITY: list[dict[str, list[str]]] = [{"apiKeyAuth": []}]
REQUEST_ID = {
    "name": "request_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid", "description": "Request ID"},
}


def router(dependencies: Dependencies) -> APIRouter:
    """`/openapi.json`."""
    routes = APIRouter()
    documents = OpenApiDocuments(dependencies.settings.ingress.public_url)
    add_get(routes, "/openapi.json", documents.get, "openapi")
    return routes


def add_get(
    router: APIRouter, path: str, handler: Callable[..., Any], name: str, **more: Any
) -> None:
    """Serve GET and HEAD at `path`; `name` is the label in metrics, `more` the description."""
    router.add_api_route(path, handler, methods=["GET"], name=name, **more)
    router.add_api_route(path, handler, methods=["HEAD"], name=name, include_in_schema=False)


class OpenApiDocuments:
    """The OpenAPI documents, with the URL that the caller sees."""

    def __init__(self, public_url: str | None) -> None:
        self._public_url = public_url

    async def get(self, request: HttpRequest, endpoint_id: str | None = None) -> Response:
        """The document of the whole service, or of the endpoint `endpoint_id`."""
        url = base_url(request, self._public_url)
        if endpoint_id is None:
            return JSONResponse(whole(request, url))
        task = next((task for task in TASKS.values() if task.endpoint == endpoint_id), None)
        if task is None:
            return JSONResponse(None, NotFound.status, NotFound().headers())
        return JSONResponse(document(task, url))


def whole(request: HttpRequest, url: str) -> dict[str, Any]:
    """Every route, in FastAPI's own dialect."""
    described: dict[str, Any] = request.app.openapi()
    schemas = schemas_of(tuple(TASKS.values()), GenerateJsonSchema)
    components = {
        "securitySchemes": SECURITY_SCHEMES,
        "schemas": schemas | described["components"]["schemas"],
    }
    return described | {"servers": [{"url": url}], "components": components}


def document(task: Task, url: str) -> dict[str, Any]:
    """One endpoint, in the dialect and the order of fal's documents."""
    return {
        "openapi": "3.0.4",
        "info": {
            "title": f"OpenAPI for {task.endpoint}",
            "version": VERSION,
            "description": (
                f"{task.summary}. Queued at {url}/queue/{task.endpoint}, "
                f"answered at once at {url}/run/{task.endpoint}."
            ),
            "x-fal-metadata": metadata(task, url),
        },
        "components": {
            "securitySchemes": SECURITY_SCHEMES,
            "schemas": schemas_of((task,), OpenApi30),
        },
        "servers": [{"url": f"{url}/queue"}],
        "security": SECURITY,
        "paths": paths(task),
    }


def paths(task: Task) -> dict[str, Any]:
    """The queue's four paths of one endpoint, as fal lists them."""
    request = f"/{task.endpoint}/requests/{{request_id}}"
    return {
        f"{request}/status": {"get": status_operation()},
        f"{request}/cancel": {"put": cancel_operation()},
        f"/{task.endpoint}": {"post": submit_operation(task)},
        request: {"get": result_operation(task.output)},
    }


def metadata(task: Task, url: str) -> dict[str, str]:
    """What fal's tools read about an endpoint."""
    return {
        "endpointId": task.endpoint,
        "category": "image-to-image" if "image" in task.output.model_fields else "vision",
        "playgroundUrl": f"{url}/?task={task.path}",
        "documentationUrl": f"{url}/llms.txt?endpoint_id={task.endpoint}",
    }


@cache
def schemas_of(
    tasks: tuple[Task, ...], dialect: type[GenerateJsonSchema]
) -> dict[str, JsonSchemaValue]:
    """The schemas of all inputs and outputs of `tasks`, by name."""
    inputs = [task.input for task in tasks]
    outputs = [task.output for task in tasks] + list(ANSWERS)
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
    """JSON Schema in OpenAPI 3.0: `nullable` instead of the type `null`."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        # 3.0 ignores all other keys of a `$ref`, so that goes into an `allOf`
        return ({"allOf": [inner]} if "$ref" in inner else inner) | {"nullable": True}


def query(name: str, type_: str, text: str, **more: Any) -> dict[str, Any]:
    schema = {"type": type_, "description": text, **more}
    return {"name": name, "in": "query", "required": False, "schema": schema}


def header(name: str, text: str) -> dict[str, Any]:
    schema = {"type": "string", "description": text}
    return {"name": name, "in": "header", "required": False, "schema": schema}


LOGS = query("logs", "string", "Whether to include the log: `1` or `true`.")
PARAMETERS = (
    header("X-Fal-Request-Timeout", "Seconds until work must have begun; else 504."),
    header("X-Fal-Queue-Priority", "`normal`, or `low` to run when nothing else waits."),
    header(
        "X-Fal-Object-Lifecycle-Preference",
        'How long files of the result are kept: `{"expiration_duration_seconds": 3600}`.',
    ),
)
SUBMIT_PARAMETERS = (
    query("fal_webhook", "string", "A URL to POST the result to.", format="uri"),
    query("fal_max_queue_length", "integer", "Refuse when as many wait already.", minimum=0),
    *PARAMETERS,
    header("X-Fal-No-Retry", "`1` when it must not be begun a second time."),
    header("X-Fal-Retry-Config", 'The same by cause: `{"server_error": {"retries": 0}}`.'),
    header("X-Fal-Store-IO", "`0` to forget the input when it has ended, the result soon."),
    header("Idempotency-Key", "The same key again gives the request that is there."),
)


def run_operation(task: Task) -> dict[str, Any]:
    return {
        "summary": task.summary,
        "operationId": task.path,
        "security": SECURITY,
        "parameters": list(PARAMETERS),
        "requestBody": {"required": True, "content": content(task.input)},
        "responses": {"200": response("The model's output", task.output)} | errors(*ERRORS),
    }


def run_stream_operation(task: Task) -> dict[str, Any]:
    text = "The output so far, each time it has grown; the last event is all of it, or an `error`"
    return run_operation(task) | {
        "summary": f"{task.summary}, streamed while it is generated",
        "operationId": f"stream-{task.path}",
        "responses": {"200": events(text)} | errors(*ERRORS),
    }


def submit_operation(task: Task) -> dict[str, Any]:
    return run_operation(task) | {
        "summary": f"{task.summary}, in the queue",
        "operationId": f"submit-{task.path}",
        "parameters": list(SUBMIT_PARAMETERS),
        "responses": {"200": response("It is queued", QueueStatus)} | errors(*ERRORS),
    }


def status_operation() -> dict[str, Any]:
    answers = {
        "200": response("It has ended", QueueStatus),
        "202": response("It waits or runs", QueueStatus),
    }
    return job_operation("How a request stands", answers, LOGS)


def stream_operation() -> dict[str, Any]:
    answers = {"200": events("A QueueStatus for each change")}
    return job_operation("How a request stands, as server-sent events", answers, LOGS)


def result_operation(output: type[BaseModel] | None = None) -> dict[str, Any]:
    """The result of a job; it is `output` where the endpoint is known."""
    body = content(output) if output else {"application/json": {"schema": {}}}
    answers = {"200": {"description": "The model's output", "content": body}}
    return job_operation("The result of a request, or the error that it ended with", answers)


def cancel_operation() -> dict[str, Any]:
    answers = {
        "202": response("It will stop", Cancelled),
        "400": response("It has ended already", Cancelled),
    }
    return job_operation("Cancel a request", answers)


def job_operation(summary: str, answers: dict[str, Any], *parameters: Any) -> dict[str, Any]:
    return {
        "summary": summary,
        "security": SECURITY,
        "parameters": [REQUEST_ID, *parameters],
        "responses": {"404": response("There is no such request", ErrorResponse)}
        | errors(400, 401, 500, 503)
        | answers,
    }


def errors(*statuses: int) -> dict[str, Any]:
    return {str(status): response(ERRORS[status][1], ERRORS[status][0]) for status in statuses}


def events(text: str) -> dict[str, Any]:
    content = {"text/event-stream": {"schema": {"type": "string"}}}
    return {"description": text, "content": content}


def response(text: str, model: type[BaseModel]) -> dict[str, Any]:
    """A JSON response, with the id that every response has."""
    return {
        "description": text,
        "headers": {"x-fal-request-id": {"schema": {"type": "string", "format": "uuid"}}},
        "content": content(model),
    }


def content(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": SCHEMAS.format(model=model.__name__)}}}
