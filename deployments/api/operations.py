"""What each route takes and answers, in OpenAPI's words: FastAPI sees little of it by itself,
because bodies are read, and answers written, by hand.
"""

from typing import Any

from pydantic import BaseModel

from deployments.api.error_responses import Failure, InputRefusal, Refusal
from deployments.api.statuses import Cancelled, QueueStatus
from deployments.florence.tasks import Task

SCHEMAS = "#/components/schemas/{model}"
REFUSALS: dict[int, tuple[type[BaseModel], str]] = {
    400: (Refusal, "A header or the query cannot be understood"),
    401: (Refusal, "There is no key, or a wrong one"),
    422: (InputRefusal, "The input cannot be used"),
    429: (Refusal, "Too many requests are waiting; try again"),
    500: (Failure, "Something went wrong on our side"),
    503: (Refusal, "A part of the service is missing; try again"),
    504: (Refusal, "The time is over"),
}
ANSWERS: tuple[type[BaseModel], ...] = (Refusal, InputRefusal, Failure, QueueStatus, Cancelled)
SECURITY: list[dict[str, list[str]]] = [{"apiKeyAuth": []}]
REQUEST_ID = {
    "name": "request_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid", "description": "Request ID"},
}


def query(name: str, type_: str, text: str, **more: Any) -> dict[str, Any]:
    """A parameter of the query."""
    schema = {"type": type_, "description": text, **more}
    return {"name": name, "in": "query", "required": False, "schema": schema}


def header(name: str, text: str) -> dict[str, Any]:
    """A header that orders something."""
    schema = {"type": "string", "description": text}
    return {"name": name, "in": "header", "required": False, "schema": schema}


LOGS = query("logs", "string", "Whether to include the log: `1` or `true`.")
ORDERS = (
    header("X-Fal-Request-Timeout", "Seconds until work must have begun; else 504."),
    header("X-Fal-Queue-Priority", "`normal`, or `low` to run when nothing else waits."),
    header(
        "X-Fal-Object-Lifecycle-Preference",
        'How long files of the result are kept: `{"expiration_duration_seconds": 3600}`.',
    ),
)
SUBMIT_ORDERS = (
    query("fal_webhook", "string", "A URL to POST the result to.", format="uri"),
    query("fal_max_queue_length", "integer", "Refuse when as many wait already.", minimum=0),
    *ORDERS,
    header("X-Fal-No-Retry", "`1` when it must not be begun a second time."),
    header("X-Fal-Retry-Config", 'The same by cause: `{"server_error": {"retries": 0}}`.'),
    header("X-Fal-Store-IO", "`0` to forget the input when it has ended, the result soon."),
    header("Idempotency-Key", "The same key again gives the request that is there."),
)


def run_operation(task: Task) -> dict[str, Any]:
    """The synchronous run of one endpoint."""
    return {
        "summary": task.summary,
        "operationId": task.path,
        "security": SECURITY,
        "parameters": list(ORDERS),
        "requestBody": {"required": True, "content": content(task.input)},
        "responses": {"200": response("The model's output", task.output)} | refusals(*REFUSALS),
    }


def run_stream_operation(task: Task) -> dict[str, Any]:
    """The synchronous run of one endpoint, as events."""
    told = "The output so far, each time it has grown; the last event is all of it, or an `error`"
    return run_operation(task) | {
        "summary": f"{task.summary}, told while it is written",
        "operationId": f"stream-{task.path}",
        "responses": {"200": events(told)} | refusals(*REFUSALS),
    }


def submit_operation(task: Task) -> dict[str, Any]:
    """The submit of one endpoint."""
    return {
        "summary": f"{task.summary}, in the queue",
        "operationId": f"submit-{task.path}",
        "security": SECURITY,
        "parameters": list(SUBMIT_ORDERS),
        "requestBody": {"required": True, "content": content(task.input)},
        "responses": {"200": response("It is queued", QueueStatus)} | refusals(*REFUSALS),
    }


def status_operation() -> dict[str, Any]:
    """How a request stands."""
    answers = {
        "200": response("It has ended", QueueStatus),
        "202": response("It waits or runs", QueueStatus),
    }
    return asking("How a request stands", answers, LOGS)


def stream_operation() -> dict[str, Any]:
    """How a request stands, as events."""
    answers = {"200": events("A QueueStatus for each change")}
    return asking("How a request stands, as server-sent events", answers, LOGS)


def result_operation(output: type[BaseModel] | None = None) -> dict[str, Any]:
    """The result of a request; it is `output` where the endpoint is known."""
    body = content(output) if output else {"application/json": {"schema": {}}}
    answers = {"200": {"description": "The model's output", "content": body}}
    return asking("The result of a request, or the error that it ended with", answers)


def cancel_operation() -> dict[str, Any]:
    """The end of a request that is not wanted any more."""
    answers = {
        "202": response("It will stop", Cancelled),
        "400": response("It has ended already", Cancelled),
    }
    return asking("Cancel a request", answers)


def asking(summary: str, answers: dict[str, Any], *parameters: Any) -> dict[str, Any]:
    """Something that is asked about one request."""
    return {
        "summary": summary,
        "security": SECURITY,
        "parameters": [REQUEST_ID, *parameters],
        "responses": {"404": response("There is no such request", Refusal)}
        | refusals(400, 401, 500, 503)
        | answers,
    }


def refusals(*statuses: int) -> dict[str, Any]:
    """The errors that a route can answer with."""
    return {str(status): response(REFUSALS[status][1], REFUSALS[status][0]) for status in statuses}


def events(text: str) -> dict[str, Any]:
    """Server-sent events."""
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
    """JSON of `model`."""
    return {"application/json": {"schema": {"$ref": SCHEMAS.format(model=model.__name__)}}}
