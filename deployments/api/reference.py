"""The reference for people and for language models, from the schemas of `/openapi.json`.

`/docs` is one page of HTML that loads nothing but the style sheet; `/llms.txt` is the same as
Markdown: a list of the endpoints, or one of them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import Any

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest

from deployments.api.dependencies import Dependencies
from deployments.api.headers import base_url
from deployments.api.openapi import ERRORS, TITLE, add_get, document
from deployments.api.playground import Page
from deployments.errors import NotFound
from deployments.florence.tasks import TASKS, Task

ABOUT = (
    "Florence-2 behind fal's HTTP protocol. Send a POST with JSON and the header "
    "`Authorization: Key …`. Each endpoint answers at once under `/run`, as server-sent events "
    "with `/stream` after it, and from the queue under `/queue`."
)
EXAMPLE_IMAGE = "https://example.com/photo.jpg"


@dataclass(frozen=True)
class FieldRow:
    """A field of an input or an output, in words."""

    name: str
    type: str
    is_required: bool
    text: str


@dataclass(frozen=True)
class Endpoint:
    """An endpoint: its fields, an input for it, and a curl line that sends it."""

    task: Task
    url: str
    inputs: tuple[FieldRow, ...]
    outputs: tuple[FieldRow, ...]
    example: str

    @property
    def name(self) -> str:
        return self.task.endpoint


def router(dependencies: Dependencies) -> APIRouter:
    """`/docs`, unless the page for people is off, and `/llms.txt`."""
    reference = ReferencePages(dependencies.settings.ingress.public_url)
    routes = APIRouter()
    if dependencies.settings.ingress.playground:
        add_get(routes, "/docs", reference.html, "docs", include_in_schema=False)
    add_get(routes, "/llms.txt", reference.markdown, "llms", include_in_schema=False)
    return routes


class ReferencePages:
    """The reference with the URL that the caller sees."""

    def __init__(self, public_url: str | None) -> None:
        self._public_url = public_url

    async def html(self, request: HttpRequest) -> Response:
        """All endpoints on a page."""
        return html_page(base_url(request, self._public_url)).response(request)

    async def markdown(self, request: HttpRequest, endpoint_id: str | None = None) -> Response:
        """The list of endpoints, or the endpoint `endpoint_id`."""
        url = base_url(request, self._public_url)
        tasks = [task for task in TASKS.values() if task.endpoint == endpoint_id]
        if endpoint_id is not None and not tasks:
            raise NotFound
        text = markdown_of(endpoint(tasks[0], url)) if tasks else overview(url)
        return Response(text, media_type="text/markdown")


def endpoint(task: Task, url: str) -> Endpoint:
    """What is to be known about `task` at the service's `url`."""
    schemas = document(task, url)["components"]["schemas"]
    given = schemas[task.input.__name__]
    return Endpoint(
        task,
        f"{url}/run/{task.endpoint}",
        tuple(rows(given, schemas)),
        tuple(rows(schemas[task.output.__name__], schemas)),
        json.dumps(example(given, schemas), indent=2),
    )


def rows(
    schema: Mapping[str, Any], schemas: Mapping[str, Any], prefix: str = ""
) -> Iterable[FieldRow]:
    """Each field of `schema`, and below it those of what it holds."""
    for name, field in schema.get("properties", {}).items():
        inner, type_ = resolved(field, schemas)
        is_required = name in schema.get("required", ())
        yield FieldRow(f"{prefix}{name}", type_, is_required, described(field))
        yield from rows(inner, schemas, f"{prefix}{name}{'[]' if 'list' in type_ else ''}.")


def resolved(field: Mapping[str, Any], schemas: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The schema of an object that `field` holds, empty for a plain value, and its type."""
    if "$ref" in field:
        return schemas[field["$ref"].rpartition("/")[2]], "object"
    if "allOf" in field:
        return resolved(field["allOf"][0], schemas)
    if field.get("type") == "array":
        inner, type_ = resolved(field["items"], schemas)
        return inner, f"list of {type_}s"
    return {}, str(field.get("type", "any"))


def described(field: Mapping[str, Any]) -> str:
    """The description, with the bounds and the default that the schema has."""
    bounds = [
        f"{word} {field[name]}"
        for name, word in (("minimum", "at least"), ("maximum", "at most"))
        if name in field
    ]
    default = field.get("default")
    more = [*bounds, *([f"default {json.dumps(default)}"] if default is not None else [])]
    text = str(field.get("description", "")).rstrip(".")
    return f"{text}; {', '.join(more)}." if more else f"{text}."


def example(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    """An input with what is required, from the examples of the schema."""
    made: dict[str, Any] = {}
    for name in schema["required"]:
        field = schema["properties"][name]
        inner, _ = resolved(field, schemas)
        known = [*inner.get("examples", []), *field.get("examples", [])]
        made[name] = next(filter(None, known), "a red car")
    return made | {"image_url": EXAMPLE_IMAGE}


def curl(shown: Endpoint) -> str:
    """A command that sends the example."""
    return (
        f"curl {shown.url} \\\n"
        '  -H "Authorization: Key $FLORENCE_API_KEY" -H "Content-Type: application/json" \\\n'
        f"  -d '{shown.example}'"
    )


def overview(url: str) -> str:
    """The list of endpoints as Markdown."""
    links = [
        f"- [{task.endpoint}]({url}/llms.txt?endpoint_id={task.endpoint}): {task.summary}"
        for task in TASKS.values()
    ]
    return "\n".join(
        [f"# {TITLE}", "", ABOUT, "", *links, "", f"[OpenAPI]({url}/openapi.json)", ""]
    )


def markdown_of(shown: Endpoint) -> str:
    """One endpoint as Markdown."""
    parts = [f"# {shown.name}", f"{shown.task.summary}.", f"POST {shown.url}"]
    for title, fields in (("Input", shown.inputs), ("Output", shown.outputs)):
        lines = [
            f"- `{row.name}` ({row.type}{', required' if row.is_required else ''}): {row.text}"
            for row in fields
        ]
        parts += [f"## {title}", "\n".join(lines)]
    parts += ["## Example", f"```sh\n{curl(shown)}\n```", "## Errors"]
    parts += ["\n".join(f"- {status}: {text}" for status, (_, text) in ERRORS.items())]
    return "\n\n".join(parts) + "\n"


@lru_cache(maxsize=8)
def html_page(url: str) -> Page:
    """The page with every endpoint at `url`."""
    shown = [endpoint(task, url) for task in TASKS.values()]
    links = "".join(f'<li><a href="#{each.task.path}">{each.task.path}</a></li>' for each in shown)
    body = (
        f'<header class="top"><h1>{TITLE}: reference</h1><a href="./">Playground</a> '
        '<a href="openapi.json">OpenAPI</a> <a href="llms.txt">llms.txt</a></header>'
        f'<main class="reference"><p>{coded(ABOUT)}</p><nav aria-label="Endpoints">'
        f"<ul>{links}</ul></nav>{''.join(map(section, shown))}"
        f'<section id="errors"><h2>Errors</h2>{errors()}</section></main>'
    )
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>{TITLE}: reference</title>'
        '<link rel="icon" href="playground/icon.svg">'
        '<link rel="stylesheet" href="playground/style.css">'
    )
    text = f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'
    return Page.of(text.encode(), ".html")


def section(shown: Endpoint) -> str:
    """One endpoint as HTML."""
    path = shown.task.path
    return (
        f'<section id="{path}"><h2>{path}</h2><p>{escape(shown.task.summary)}. '
        f'<a href="./?task={path}">Try it</a></p><p><code>POST {escape(shown.url)}</code></p>'
        f"<h3>Input</h3>{field_table(shown.inputs)}<h3>Output</h3>{field_table(shown.outputs)}"
        f'<h3>Example</h3><pre tabindex="0">{escape(curl(shown))}</pre></section>'
    )


def field_table(fields: Sequence[FieldRow]) -> str:
    cells = (
        (
            f"<code>{escape(row.name)}</code>",
            escape(row.type),
            "required" if row.is_required else "",
            coded(row.text),
        )
        for row in fields
    )
    return table(("Field", "Type", "", "Meaning"), cells)


def errors() -> str:
    cells = ((str(status), escape(text)) for status, (_, text) in ERRORS.items())
    return table(("Status", "Meaning"), cells)


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f'<th scope="col">{head}</th>' if head else "<td></td>" for head in heads)
    rest = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in lines)
    return (
        '<div class="wide" tabindex="0" role="group" aria-label="Table"><table>'
        f"<thead><tr>{top}</tr></thead><tbody>{rest}</tbody></table></div>"
    )


def coded(text: str) -> str:
    """`text` as HTML; what stands between backticks is code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
