"""An error names the right form, beside fal's `detail`: on every way in."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.api.hints import hint_of_body, hint_of_path
from deployments.errors import InvalidInput
from deployments.florence.schemas import ImageInput, ImageWithTextInput
from deployments.florence.tasks import APP, TASKS
from deployments.images.data_uri import hint_of_url

from .service import AUTHORIZED, CAPTION, Service

NEAR = {
    f"/{APP}/object-detecton": f"/{APP}/object-detection",
    f"/{APP}/object_detection": f"/{APP}/object-detection",
    f"/{APP}/<OD>": f"/{APP}/object-detection",
    f"/{APP}/caption/run": f"/{APP}/caption",
    f"/{APP}/Captions/stream": f"/{APP}/caption/stream",
    f"/run/{APP}/region-proposals": f"/{APP}/region-proposal",
    f"/queue/{APP}/captoin": f"/queue/{APP}/caption",
    "/fal-ai/florence-2-base/caption": f"/{APP}/caption",
    "/florence-2-large/caption": f"/{APP}/caption",
    "/caption": f"/{APP}/caption",
}


def hint(response: Any, status: int) -> str:
    """The hint of an error whose other parts are fal's."""
    body = response.json()
    assert response.status_code == status, body
    assert set(body) - {"hint"} in ({"detail"}, {"detail", "error_type"})
    assert isinstance(body["detail"], list if status == 422 else str)
    return str(body["hint"])


@pytest.mark.parametrize("path", NEAR)
def test_a_path_that_is_nearly_right_gets_the_right_one(shared: Service, path: str) -> None:
    """Spelling, Florence-2's own names, another application, or none."""
    response = shared.client.post(path, json={}, headers=AUTHORIZED)

    assert hint(response, 404) == f"Did you mean POST {NEAR[path]}?"


def test_the_proxy_gives_the_same_hints(shared: Service) -> None:
    """The target URL is a path of ours."""
    target = {"x-fal-target-url": f"https://queue.fal.run/{APP}/captoin"}
    response = shared.client.post("/api/fal/proxy", json={}, headers=AUTHORIZED | target)

    assert hint(response, 404) == f"Did you mean POST /queue/{APP}/caption?"


@pytest.mark.parametrize("path", [f"/{APP}", f"/{APP}/x", f"/queue/{APP}/x", "/fal-ai/flux/dev"])
def test_what_is_near_nothing_gets_the_list_of_tasks(shared: Service, path: str) -> None:
    """Each path that may be meant is named."""
    found = hint(shared.client.post(path, json={}, headers=AUTHORIZED), 404)

    assert all(task in found for task in TASKS)


def test_other_paths_lead_to_the_index(shared: Service) -> None:
    """Where everything is listed."""
    assert "GET /" in hint(shared.client.get("/v1/chat/completions"), 404)


@pytest.mark.parametrize("path", ["/requests/1", "/queue/requests/1/status", "/run/requests/1"])
def test_a_queue_url_without_the_application_gets_the_right_one(shared: Service, path: str) -> None:
    """fal's URLs of jobs hold the application's name."""
    found = hint(shared.client.get(path, headers=AUTHORIZED), 404)

    assert f"/queue/{APP}/requests/REQUEST_ID" in found
    assert "status_url" in found


def test_a_job_of_a_task_that_is_not_there_gets_the_right_url(shared: Service) -> None:
    """The task in a job's URL may be left out, but not be wrong."""
    path = f"/queue/{APP}/captoin/requests/6f9619ff-8b86-d011-b42d-00cf4fc964ff"

    assert f"/queue/{APP}/requests/" in hint(shared.client.get(path, headers=AUTHORIZED), 404)


@pytest.mark.parametrize("prefix", ["", "/run", "/queue"])
def test_a_wrong_method_gets_the_right_one(shared: Service, prefix: str) -> None:
    """A run is a POST, with its input in the body and not in the query."""
    response = shared.client.get(prefix + CAPTION, headers=AUTHORIZED)

    assert hint(response, 405) == "Use POST, with the input as JSON in its body."


def test_a_cancel_is_a_put(shared: Service) -> None:
    """Nothing is sent with it."""
    path = f"/queue/{APP}/requests/6f9619ff-8b86-d011-b42d-00cf4fc964ff/cancel"

    assert hint(shared.client.post(path, headers=AUTHORIZED), 405) == "Use PUT."


BODIES: dict[str, tuple[Any, str]] = {
    "wrapped": ({"input": {"image_url": "x"}}, "fields of `input` themselves"),
    "wrapped otherwise": ({"data": {"image_url": "x"}}, "fields of `data` themselves"),
    "another name": ({"image": "x"}, "`image` is called `image_url`"),
    "another style": ({"imageUrl": "x"}, "`imageUrl` is called `image_url`"),
    "misspelt": ({"imgae_url": "x"}, "`imgae_url` is called `image_url`"),
    "a list": ([], "must be a JSON object"),
}


@pytest.mark.parametrize("path", [CAPTION, f"{CAPTION}/stream", f"/queue{CAPTION}"])
@pytest.mark.parametrize("body", BODIES)
def test_a_body_of_another_form_gets_the_right_one(shared: Service, path: str, body: str) -> None:
    """Runs, streams and submits say the same."""
    given_body, words = BODIES[body]
    response = shared.client.post(path, json=given_body, headers=AUTHORIZED)

    assert words in hint(response, 422)


def test_a_body_that_is_no_json_gets_an_example(shared: Service) -> None:
    """Forms, for one."""
    response = shared.client.post(CAPTION, data={"image_url": "x"}, headers=AUTHORIZED)

    assert '{"image_url": ' in hint(response, 422)


def test_nothing_is_said_where_nothing_is_known(shared: Service) -> None:
    """An error without a hint has fal's fields alone."""
    response = shared.client.post(CAPTION, json={"num_beams": 1}, headers=AUTHORIZED)

    assert set(response.json()) == {"detail"}


def test_a_prompt_is_a_text_input() -> None:
    """But only where one is missing."""
    body = {"image_url": "x", "prompt": "a cat"}

    found = hint_of_body(body, ImageWithTextInput, ["text_input"])
    assert found == "`prompt` is called `text_input` here."
    assert hint_of_body(body, ImageWithTextInput, []) == ""


def test_a_body_of_many_fields_or_long_names_is_not_searched_to_its_end() -> None:
    """A hint is worth little work, and repeats nothing that is long."""
    many = {f"n{number}": 0 for number in range(40)}
    assert hint_of_body(many | {"image": "x"}, ImageInput, ["image_url"]) == ""
    assert hint_of_body({"x" * 65: {"image_url": "x"}}, ImageInput, ["image_url"]) == ""


NO_URLS = (  # with words of the hint
    ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk", "data:image/"),
    ("/9j/4AAQSkZJRgABAQEAYABgAAD/" + "2wBDAAMC" * 20 + "==", "data:image/"),
    ("/9j/4AAQSkZJRgABAQEAYABgAAD/2wBDAAMCAgMCAgMDAwMEAwME\nBQgFBQQEBQ", "data:image/"),
    ("photo.jpg", "upload"),
    ("C:\\pictures\\photo.jpg", "upload"),
)


@pytest.mark.parametrize(("url", "words"), NO_URLS)
def test_what_is_no_url_gets_the_right_form(url: str, words: str) -> None:
    """Bare base64 lacks its beginning; files cannot be read from here."""
    assert words in hint_of_url(url)


@pytest.mark.parametrize("url", ["http://example.com/x.jpg", "HTTPS://example.com", "ftp://x/y"])
def test_nothing_is_said_of_a_url(url: str) -> None:
    """Why it could not be fetched stands in `detail`."""
    assert hint_of_url(url) == ""


@given(st.text(max_size=200), st.recursive(st.text() | st.none(), st.lists))
def test_nothing_that_is_asked_for_is_an_error(path: str, value: Any) -> None:
    """Hints are made of anything."""
    assert hint_of_path("/" + path)
    assert isinstance(hint_of_body({path: value}, ImageInput, ["image_url"]), str)
    assert InvalidInput().with_hint(hint_of_url(path)).body()
