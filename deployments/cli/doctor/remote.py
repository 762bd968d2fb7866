"""Checks a running service as its clients see it, over HTTP."""

import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import uuid4

import httpx2
from pydantic import ValidationError

from deployments import __version__
from deployments.cli.doctor.check import CheckFailed, Finding, fail, ok, skip, warn
from deployments.cli.doctor.local import clock_finding
from deployments.demo.scenes import draw_scene
from deployments.florence.schemas import BoundingBoxOutput
from deployments.florence.tasks import APP, TASKS
from deployments.local.client import data_uri_of, error_line

RUN_S = 240.0
DATE_RESOLUTION_S = 1.0  # a `Date` has whole seconds
REMEDY = "see that it runs, and that --url leads to it"
RAYS_PATHS = ("/api/version", "/api/jobs/", "/api/v0/nodes", "/nodes?view=summary", "/dashboard/")
TASK = TASKS["region-proposal"]


@dataclass(frozen=True)
class RemoteService:
    """Its URL, an HTTP client, and the key to call with; empty for none."""

    url: str
    http: httpx2.Client
    key: str = ""

    def get(self, path: str, key: str = "") -> httpx2.Response:
        """The answer to a GET.

        Raises:
            CheckFailed: there is none.
        """
        return self.request("GET", path, key)

    def request(self, method: str, path: str, key: str, **options: Any) -> httpx2.Response:
        """As `get`, with the options of an HTTP client."""
        headers = {"Authorization": f"Key {key}"} if key else {}
        try:
            return self.http.request(method, f"{self.url}{path}", headers=headers, **options)
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise CheckFailed(f"no answer from {self.url} ({why})", REMEDY) from None


def check_health(service: RemoteService) -> Finding:
    if (alive := service.get("/health")).status_code != 200:
        return fail(f"{service.url}/health answers {error_line(alive)}", REMEDY)
    if (ready := service.get("/ready")).status_code != 200:
        remedy = "wait while it starts; else see Serve's log, or --release on a cluster"
        return fail(f"it is alive, and /ready answers {error_line(ready)}", remedy)
    try:
        there = str(service.get("/openapi.json").json()["info"]["version"])
    except (ValueError, LookupError, TypeError):
        there = "unknown"
    if there != __version__:
        remedy = "use the doctor of the same release"
        return warn(f"ready, version {there}; this is {__version__}", remedy)
    return ok(f"{service.url} is ready, version {there}")


def check_clock(service: RemoteService) -> Finding:
    before = time.time()
    date = service.get("/health").headers.get("date", "")
    between = (before + time.time()) / 2
    try:
        there = parsedate_to_datetime(date).timestamp() + DATE_RESOLUTION_S / 2
    except ValueError:
        return skip("its answers have no `Date`")
    return clock_finding("the service", there - between, DATE_RESOLUTION_S)


def check_key(service: RemoteService) -> Finding:
    """Whether the key is accepted, and one that does not exist is refused."""
    path = f"/queue/{APP}/requests/{uuid4()}/status"
    if (answer := service.get(path, key=f"no-key:{uuid4()}")).status_code != 401:
        said = f"a key that does not exist is answered {answer.status_code}, and not 401"
        return fail(said, "see what answers at --url, and whether it puts a key of its own in")
    if not service.key:
        return skip("a key that does not exist is refused; no --key to try")
    if (answer := service.get(path, key=service.key)).status_code == 404:  # no such request
        return ok("accepted, and a key that does not exist is refused")
    remedy = "give another --key; `florence keys list` has them"
    return fail(f"refused: {error_line(answer)}", remedy)


def check_webhook_keys(service: RemoteService) -> Finding:
    """Whether receivers find the keys that verify webhooks."""
    answer = service.get("/.well-known/jwks.json")
    try:
        found = answer.json()["keys"]
    except (ValueError, LookupError, TypeError):
        return fail(f"/.well-known/jwks.json answers {error_line(answer)}", REMEDY)
    if not found:
        return warn("none is published yet", "see a Dispatcher's log: its keys could not be read")
    return ok(f"{len(found)} published")


def check_paths(service: RemoteService) -> Finding:
    """Whether Ray's dashboard has the same address: anyone who reaches it can run code."""
    open_ = [path for path in RAYS_PATHS if service.get(path).is_success]
    if open_:
        said = f"Ray's dashboard is behind this address: {', '.join(open_)}"
        return fail(said, "route the service's port alone (8000), never 8265")
    return ok("nothing of Ray is behind this address")


def check_run(service: RemoteService) -> Finding:
    """Whether a request with a drawn scene is answered with boxes."""
    if not service.key:
        return fail("no key to call with", "give --key, or FLORENCE_API_KEY")
    scene = draw_scene(random.Random(7), (256, 256))
    before = time.monotonic()
    body = {"image_url": data_uri_of(scene.image)}
    path = f"/{TASK.endpoint}"
    answer = service.request("POST", path, service.key, json=body, timeout=RUN_S)
    took_s = time.monotonic() - before
    if not answer.is_success:
        said = f"{TASK.path} answers {error_line(answer)}"
        return fail(said, f"look for {answer.headers.get('x-fal-request-id', 'it')} in Serve's log")
    try:
        found = BoundingBoxOutput.model_validate_json(answer.content).results.bboxes
    except ValidationError as error:
        why = str(error).splitlines()[0]
        return fail(f"{TASK.path} answers something else: {why}", "see what answers at --url")
    return ok(f"boxes: {len(found)}, shapes: {len(scene.objects)}, in {took_s:.2f} s")
