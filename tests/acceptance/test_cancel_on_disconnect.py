"""A disconnect stops the model, measured in processor time."""

import http.client
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from loadtest.bench.checkpoint import mixed_checkpoint
from loadtest.bench.launch import ENDPOINT, LocalService, local_service
from loadtest.bench.processes import seconds, title
from loadtest.bench.reference import mixed_samples
from loadtest.scenes import body_with

SETTINGS = ["inference.min_new_tokens=0", "inference.max_new_tokens=1024"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with long answers."""
    return mixed_checkpoint(tmp_path_factory.mktemp("long") / "checkpoint")


@pytest.fixture(scope="module")
def service(checkpoint: Path) -> Iterator[LocalService]:
    """The service with that checkpoint, behind HAProxy."""
    with local_service(checkpoint, haproxy=True, sets=SETTINGS) as started:
        yield started


def test_the_model_stops_when_its_caller_disconnects(
    service: LocalService, checkpoint: Path
) -> None:
    """A request cancelled after a tenth of its time costs less than half of a whole one."""
    body = body_with(max(mixed_samples(checkpoint), key=lambda sample: len(sample.answer)).jpeg)
    answered(service, body)
    before = model_s(service)
    answered(service, body)
    whole_s = model_s(service) - before

    before = model_s(service)
    with pytest.raises(TimeoutError):
        answered(service, body, timeout_s=whole_s / 10)
    settled(service)
    assert model_s(service) - before < whole_s / 2


def answered(service: LocalService, body: bytes, timeout_s: float = 60) -> None:
    """Ask, and read the answer."""
    parts = urlsplit(service.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("POST", f"/{ENDPOINT}", body, service.headers)
        response = connection.getresponse()
        assert (response.status, bool(response.read())) == (200, True)
    finally:
        connection.close()


def model_s(service: LocalService) -> float:
    """Processor seconds of the Inference deployment until now."""
    members = service.processes.members()
    return sum(seconds(member) for member in members if "Inference" in title(member))


def settled(service: LocalService) -> None:
    """Wait until the model does nothing."""
    before = -1.0
    while model_s(service) - before > 0.05:
        before = model_s(service)
        time.sleep(1)
