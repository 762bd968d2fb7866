"""The stream of a run: one event, the output."""

import json
from typing import Any

import pytest

from deployments.errors import FileDownloadError
from deployments.florence.run import Finished, Run
from deployments.florence.tasks import TASKS

from .service import ANSWER, CAPTION, Serve, Service

INPUT = {"image_url": "https://example.com/car.jpg"}


def events(response: Any) -> list[Any]:
    """The data of each event."""
    return [
        json.loads(event.removeprefix("data: ")) for event in response.text.split("\n\n") if event
    ]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("path", ["/{}/stream", "/{}/stream/", "/run/{}/stream"])
def test_every_task_can_be_streamed(service: Service, task: str, path: str) -> None:
    """The one event is the whole output, as fal's clients expect of the last one."""
    response = service.post(INPUT, path.format(TASKS[task].endpoint), accept="application/json")

    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert events(response) == [ANSWER.output]
    assert response.headers["x-fal-request-id"] == service.runs[0].id
    assert service.runs[0].task == task


def test_an_event_stays_in_one_line(serve: Serve) -> None:
    """A line break in the output does not end the event."""
    output = {"results": "one\ntwo\r\n\nthree"}

    async def run(given: Run) -> Finished:
        return Finished(output, ANSWER.stages)

    assert events(serve(run).post(INPUT, f"{CAPTION}/stream")) == [output]


def test_an_error_is_no_event(serve: Serve) -> None:
    """What fails is answered as a run that fails: with its status."""

    async def run(given: Run) -> Finished:
        raise FileDownloadError

    response = serve(run).post(INPUT, f"{CAPTION}/stream")

    assert response.status_code == 422
    assert response.json()["detail"][0]["type"] == "file_download_error"


def test_a_stream_is_counted_as_a_run(service: Service) -> None:
    """Its metrics are the run's."""
    service.post(INPUT, f"{CAPTION}/stream")

    counted = 'florence_ingress_requests_total{endpoint="fal-ai/florence-2-large/caption"'
    assert any(line.startswith(counted) for line in service.metrics().splitlines())
