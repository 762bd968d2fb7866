"""What a caller meant who asks for a path that is not there, or sends fields of another name.

A hint is a sentence that names the right form. It stands beside fal's `detail`, and programs need
not read it.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any

from pydantic import BaseModel

from deployments.florence.tasks import APP, TASKS

INDEX = "GET / lists what is served here."
BODY = 'The body must be a JSON object such as {"image_url": "https://…"}.'
JOB = (
    f"A job is at /queue/{APP}/requests/REQUEST_ID, with /status, /status/stream or /cancel after "
    "it: `response_url`, `status_url` and `cancel_url` of the submit's answer."
)
MAX_WORDS = 5  # of a path, which may be long
MAX_FIELDS, MAX_LETTERS = 32, 64  # of a body, and of a name in it, which may be long as well
JOB_PATH = re.compile(r"/requests(/|$)|/[0-9a-f]{8}-[0-9a-f]{4}-", re.IGNORECASE)
# An application's name may be wrong, shortened or missing; a task comes after it.
OUTSIDE = re.compile(r"/(?:run/|queue/)?(?:fal-ai/)?(?:[\w.]*florence[\w.-]*/?)?", re.IGNORECASE)
# What other services, and users, call our fields.
ALIASES = {
    "image_url": ("image", "url", "img", "image_urls", "image_uri", "image_base64", "file"),
    "text_input": ("prompt", "text", "query", "caption", "phrase", "input_text", "question"),
    "region": ("bbox", "box", "bounding_box", "user_input", "regions", "coordinates"),
}
# Florence-2's own names of the tasks serve as well.
NAMES = {
    name: task.path
    for task in TASKS.values()
    for name in (task.path, task.marker.strip("<>").lower().replace("_", "-"))
}


def hint_of_path(path: str) -> str:
    """What is near `path`, at which there is nothing."""
    if JOB_PATH.search(path):
        return JOB
    prefix = "/queue" if path.startswith("/queue/") else ""
    if found := near(path):
        stream = "/stream" if path.endswith("/stream") and not prefix else ""
        return f"Did you mean POST {prefix}/{APP}/{found}{stream}?"
    if re.match(r"/(run|queue|fal-ai)(/|$)", path):
        return f"POST to {prefix}/{APP}/TASK, where TASK is one of {', '.join(TASKS)}."
    return INDEX


def hint_of_method(path: str, methods: Iterable[str]) -> str:
    """How to call `path`, which takes these methods."""
    how = " or ".join(sorted(set(methods) - {"HEAD", "OPTIONS"}))
    is_work = APP in path and "/requests/" not in path
    return f"Use {how}" + (", with the input as JSON in its body." if is_work else ".")


def hint_of_body(value: Any, model: type[BaseModel], missing: Iterable[str]) -> str:
    """How to send `value` as a `model`, of which the fields in `missing` were not found."""
    if not isinstance(value, Mapping):
        return BODY
    missing = list(missing)
    given = [name for name in islice(value, MAX_FIELDS) if len(name) <= MAX_LETTERS]
    wrapper = next((name for name in given if missing and holds(value[name], model)), None)
    if wrapper is not None:
        return (
            f"Send the fields of `{wrapper}` themselves as the body: only fal's clients take an "
            "`input`, and they unwrap it."
        )
    unknown = [name for name in given if name not in model.model_fields]
    names = {field: misnamed(field, unknown) for field in missing}
    return " ".join(f"`{name}` is called `{field}` here." for field, name in names.items() if name)


def holds(value: Any, model: type[BaseModel]) -> bool:
    """Whether fields of `model` are in `value`."""
    return isinstance(value, Mapping) and not model.model_fields.keys().isdisjoint(value)


def misnamed(field: str, unknown: list[str]) -> str | None:
    """Which of the unknown names stands for `field`."""
    names = {plain(name): name for name in unknown}
    alias = next((names[alias] for alias in ALIASES.get(field, ()) if alias in names), None)
    near = get_close_matches(field, names, n=1, cutoff=0.75)
    return alias or (names[near[0]] if near else None)


def plain(name: str) -> str:
    """`imageUrl`, `Image-URL` and `image_url` are one name."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[ -]", "_", name[:MAX_LETTERS]).lower()


def near(path: str) -> str | None:
    """The task that `path` names or nearly names, with or without an application before it."""
    words = OUTSIDE.sub("", path, count=1).split("/")[:MAX_WORDS]
    return next(filter(None, map(close, words)), None)


def close(word: str) -> str | None:
    """The path of the task that is called nearly so."""
    word = plain(word).strip("<>").replace("_", "-")
    found = get_close_matches(word, NAMES, n=1, cutoff=0.7)
    return NAMES[found[0]] if found else None
