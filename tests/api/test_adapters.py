"""An input names its adapter, a key has one by default, and an unknown one is refused."""

import json
from typing import Any

import pytest

from .service import CAPTION, OTHER_KEY, Serve, Service

INPUT = {"image_url": "u"}
STREAM, SUBMIT = f"{CAPTION}/stream", f"/queue{CAPTION}"
PATHS = [CAPTION, STREAM, SUBMIT]
FOLDERS = {"invoices": "/a", "forms": "/b"}
each_path = pytest.mark.parametrize("path", PATHS)


@pytest.fixture
def adapted(serve: Serve) -> Service:
    """A service with two adapters."""
    return serve(model={"adapters": FOLDERS})


def asked(service: Service, path: str, key: str | None = None, **fields: Any) -> Any:
    """The adapter of what was run or queued, or the refusal."""
    headers = {"Authorization": f"Key {key}"} if key else {}
    response = service.post(INPUT | fields, path, **headers)
    if response.status_code != 200:
        return response
    if path == SUBMIT:
        return json.loads(service.claim().input).get("adapter")
    return service.runs[-1].input.adapter


@each_path
@pytest.mark.parametrize("name", ["invoices", "forms", "base", None])
def test_an_input_names_an_adapter(adapted: Service, path: str, name: str | None) -> None:
    """Or the base alone, or nothing."""
    assert asked(adapted, path, adapter=name) == name


@each_path
@pytest.mark.parametrize(("given", "expected"), [({}, "forms"), ({"adapter": "invoices"}, None)])
def test_a_key_has_an_adapter(
    adapted: Service, path: str, given: dict[str, str], expected: str | None
) -> None:
    """It answers unless the input names another."""
    adapted.add_key(adapter="forms")
    assert asked(adapted, path, OTHER_KEY, **given) == (expected or given["adapter"])


@each_path
def test_a_key_with_an_adapter_may_ask_the_base(adapted: Service, path: str) -> None:
    """By the name that stands for none."""
    adapted.add_key(adapter="forms")
    assert asked(adapted, path, OTHER_KEY, adapter="base") == "base"


@each_path
@pytest.mark.parametrize("name", ["contracts", "", "Invoices"])
def test_an_unknown_adapter_is_refused(adapted: Service, path: str, name: str) -> None:
    """With the names that are known, and nothing is run or queued."""
    response = asked(adapted, path, adapter=name)
    assert (response.status_code, adapted.runs, adapted.wakes) == (422, [], [])
    assert response.json() == {
        "detail": [
            {
                "loc": ["body", "adapter"],
                "msg": "Input should be 'base', 'forms' or 'invoices'",
                "type": "literal_error",
                "url": "https://docs.fal.ai/errors/#literal_error",
                "ctx": {"expected": "'base', 'forms' or 'invoices'"},
            }
        ],
        "hint": "This deployment's adapters are forms, invoices; base is the model without any.",
    }


@each_path
def test_a_keys_adapter_that_is_not_here_is_refused(adapted: Service, path: str) -> None:
    """The base would answer something else: no guess."""
    adapted.add_key(adapter="gone")
    response = asked(adapted, path, OTHER_KEY)
    assert (response.status_code, response.json()["detail"][0]["loc"]) == (422, ["body", "adapter"])


def test_a_deployment_without_adapters_says_so(service: Service) -> None:
    """It has the base."""
    assert asked(service, CAPTION, adapter="base") == "base"
    response = asked(service, CAPTION, adapter="invoices")
    assert response.json()["detail"][0]["msg"] == "Input should be 'base'"
    hint = "This deployment has no adapters: leave out adapter, or give base."
    assert response.json()["hint"] == hint


@pytest.mark.parametrize("value", [1, ["invoices"], "a" * 65])
def test_a_name_is_a_short_text(adapted: Service, value: Any) -> None:
    """Anything else does not fit the schema."""
    response = asked(adapted, CAPTION, adapter=value)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "adapter"]
