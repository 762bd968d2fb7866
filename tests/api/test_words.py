"""Texts and regions over HTTP: a wrong one is a 422 for its own request, run or queued."""

import threading
from typing import Any

import pytest

from deployments.florence.prompts import Prompts
from deployments.florence.tasks import TASKS
from tests.florence.questions import body_of

from .service import Service

TEXT, REGION = TASKS["caption-to-phrase-grounding"], TASKS["region-to-category"]
AT = {"x1": 100, "y1": 100, "x2": 200, "y2": 200}

each_path = pytest.mark.parametrize("path", ["/{}", "/{}/stream", "/queue/{}"])


def locations(response: Any) -> list[list[str]]:
    """Where the faults are."""
    assert response.status_code == 422, response.text
    return [item["loc"] for item in response.json()["detail"]]


@each_path
@pytest.mark.parametrize(
    "text", [None, 3, [], "<OD>", "</s>", "<loc_5>", "<image>", "a\0b", "word " * 1000]
)
def test_a_wrong_text_is_refused(shared: Service, path: str, text: Any) -> None:
    """At once, also where the job would be queued."""
    before = len(shared.runs), len(shared.queued())
    response = shared.post(body_of(TEXT, text_input=text), path.format(TEXT.endpoint))
    assert locations(response) == [["body", "text_input"]]
    assert (len(shared.runs), len(shared.queued())) == before


@each_path
def test_a_text_is_needed(shared: Service, path: str) -> None:
    """Without it there is no question."""
    response = shared.post({"image_url": "u"}, path.format(TEXT.endpoint))
    assert locations(response) == [["body", "text_input"]]


@pytest.mark.parametrize("text", ["", "🦒", "Größe café 東京", "square <and> circle", "a, b. c"])
def test_a_text_reaches_the_run(shared: Service, text: str) -> None:
    """As it was written."""
    response = shared.post(body_of(TEXT, text_input=text), f"/{TEXT.endpoint}")
    assert response.status_code == 200
    assert shared.runs[-1].input.text_input == text  # type: ignore[attr-defined]


@each_path
@pytest.mark.parametrize(("num_words", "in_threads"), [(10, 0), (1000, 1)])
def test_a_long_text_is_read_beside_the_event_loop(
    shared: Service, monkeypatch: pytest.MonkeyPatch, path: str, num_words: int, in_threads: int
) -> None:
    """Other requests need not wait for it."""
    check, threads = Prompts.check, []

    def watched(*given: Any) -> None:
        threads.append(threading.current_thread().name)
        check(*given)

    monkeypatch.setattr(Prompts, "check", watched)
    shared.post(body_of(TEXT, text_input="word " * num_words), path.format(TEXT.endpoint))
    [name] = threads
    assert name.count("asyncio_") == in_threads  # what asyncio.to_thread calls its threads


@each_path
@pytest.mark.parametrize(
    ("region", "where"),
    [
        (AT | {"x2": 100}, ["x2"]),
        (AT | {"y2": 7}, ["y2"]),
        (AT | {"x1": "100"}, ["x1"]),
        (AT | {"x1": 1.5}, ["x1"]),
        (AT | {"y1": None}, ["y1"]),
        (AT | {"y1": True}, ["y1"]),
        ({"x1": 1, "y1": 1, "x2": 2}, ["y2"]),
        (None, []),
        ([1, 1, 2, 2], []),
    ],
)
def test_a_wrong_region_is_refused(
    shared: Service, path: str, region: Any, where: list[str]
) -> None:
    """The location names the member."""
    response = shared.post(body_of(REGION, region=region), path.format(REGION.endpoint))
    assert locations(response) == [["body", "region", *where]]


@pytest.mark.parametrize("region", [AT | {"x1": -(10**9), "x2": 10**9}, AT | {"x1": 100.0}])
def test_a_region_is_whole_pixels_anywhere(shared: Service, region: dict[str, Any]) -> None:
    """Beyond the image, which nobody has seen yet, and whatever way JSON writes the number."""
    response = shared.post(body_of(REGION, region=region), f"/{REGION.endpoint}")
    assert response.status_code == 200
