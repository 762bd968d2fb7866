"""A client of the running service, and the scenes of the acceptance tests."""

import base64
import io
import random
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from PIL import Image

from deployments.demo.scenes import Scene, draw_scene
from deployments.demo.scoring import box_of

APP = "/fal-ai/florence-2-large"
PROPOSAL = f"{APP}/region-proposal"


@dataclass(frozen=True)
class Caller:
    """A client of the service under test."""

    url: str
    key: str
    http: httpx2.Client

    def post(self, body: Any, path: str = PROPOSAL, **options: Any) -> httpx2.Response:
        """POST a JSON body with the key."""
        return self.http.post(self.url + path, json=body, headers=self.authorization, **options)

    def send(self, image: Image.Image | bytes | str, path: str = PROPOSAL) -> httpx2.Response:
        """POST an image, given as pixels, bytes or URL."""
        return self.post({"image_url": image if isinstance(image, str) else uri(image)}, path)

    def insist(self, image: Image.Image | bytes | str) -> httpx2.Response:
        """Send the image, and retry after a 429, as fal's clients do."""
        while (answer := self.send(image)).status_code == 429:
            time.sleep(float(answer.headers["retry-after"]))
        return answer

    def num_ended(self, status: int) -> float:
        """How many runs ended with this status, as /metrics says."""
        text = self.http.get(f"{self.url}/metrics").text
        line = rf'^florence_ingress_requests_total{{.*region-proposal.*"{status}"}} (\S+)'
        return sum(map(float, re.findall(line, text, re.MULTILINE)))

    @property
    def authorization(self) -> dict[str, str]:
        """The header with the key."""
        return {"Authorization": f"Key {self.key}"}


@contextmanager
def load(caller: Caller, concurrency: int) -> Iterator[list[httpx2.Response]]:
    """Clients that ask again and again while the block runs; yields what they were answered."""
    image_url = uri(scene(0, (256, 256)).image)
    answers: list[httpx2.Response] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            answers.append(caller.send(image_url))

    with ThreadPoolExecutor(concurrency) as threads:
        clients = [threads.submit(client) for _ in range(concurrency)]
        try:
            yield answers
        finally:
            stop.set()
            for asking in clients:
                asking.result()


def wait_for(answers: list[httpx2.Response], more: int) -> None:
    """Wait until `more` further answers have come, for at most a minute."""
    goal, deadline = len(answers) + more, time.monotonic() + 60
    while len(answers) < goal:
        assert time.monotonic() < deadline, "no more answers"
        time.sleep(0.05)


def uri(image: Image.Image | bytes, content_type: str = "image/png") -> str:
    """A data URI of an image or of bytes."""
    data = image if isinstance(image, bytes) else encoded(image, "PNG")
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def scene(seed: int, size: tuple[int, int] = (640, 480)) -> Scene:
    """A scene that is the same in every run."""
    return draw_scene(random.Random(f"acceptance {seed}"), size)


def truth(shown: Scene) -> list[dict[str, Any]]:
    """The true boxes of a scene, in the API's schema."""
    return [box_of(thing.box) for thing in shown.objects]


def error_type(response: httpx2.Response) -> str:
    """fal's name for the error in a response."""
    body = response.json()
    detail = body["detail"]
    return str(detail[0]["type"] if isinstance(detail, list) else body["error_type"])
