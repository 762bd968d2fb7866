"""Routes that only read: HEAD is answered wherever GET is."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

Handler = Callable[..., Any]


def add_reading(router: APIRouter, path: str, handler: Handler, name: str, **more: Any) -> None:
    """Serve `handler` at `path`; `name` is its label in metrics, `more` is for its description."""
    router.add_api_route(path, handler, methods=["GET"], name=name, **more)
    router.add_api_route(path, handler, methods=["HEAD"], name=name, include_in_schema=False)
