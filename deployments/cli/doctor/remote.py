"""A running service, seen as its clients see it: over HTTP."""

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import uuid4

import httpx2

from deployments import __version__
from deployments.cli.doctor.clock import agreement
from deployments.cli.doctor.verdict import Failed, Verdict, fail, ok, skip, warn
from deployments.florence.tasks import APP
from deployments.local.client import error_line

RUN_S = 240.0
DATE_GRAIN_S = 1.0  # a `Date` has whole seconds
REMEDY = "see that it runs, and that --url leads to it"
RAYS_PATHS = ("/api/version", "/api/jobs/", "/api/v0/nodes", "/nodes?view=summary", "/dashboard/")


@dataclass(frozen=True)
class Service:
    """Where it is, how it is reached, and the key to call with; empty for none."""

    url: str
    http: httpx2.Client
    key: str = ""

    def get(self, path: str, key: str = "") -> httpx2.Response:
        """What it answers.

        Raises:
            Failed: it does not.
        """
        headers = {"Authorization": f"Key {key}"} if key else {}
        return self._ask("GET", path, headers=headers)

    def post(self, path: str, body: Any) -> httpx2.Response:
        """The same for a run with the key, which may take its time."""
        headers = {"Authorization": f"Key {self.key}"}
        return self._ask("POST", path, json=body, headers=headers, timeout=RUN_S)

    def _ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            return self.http.request(method, f"{self.url}{path}", **options)
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise Failed(f"no answer from {self.url} ({why})", REMEDY) from None


def health(service: Service) -> Verdict:
    """Whether it lives, every part of it answers, and it is of this release.

    Raises:
        Failed: it does not answer.
    """
    if (alive := service.get("/health")).status_code != 200:
        return fail(f"{service.url}/health answers {error_line(alive)}", REMEDY)
    if (ready := service.get("/ready")).status_code != 200:
        remedy = "wait while it starts; else see Serve's log, or --release on a cluster"
        return fail(f"it lives, and /ready answers {error_line(ready)}", remedy)
    there = version_of(service)
    if there != __version__:
        remedy = "use the doctor of the same release"
        return warn(f"ready, version {there or 'unknown'}; this is {__version__}", remedy)
    return ok(f"{service.url} is ready, version {there}")


def version_of(service: Service) -> str:
    """The version that it tells."""
    try:
        return str(service.get("/openapi.json").json()["info"]["version"])
    except (ValueError, LookupError, TypeError):
        return ""


def clock(service: Service) -> Verdict:
    """Whether its clock agrees with this machine's.

    Raises:
        Failed: it does not answer.
    """
    before = time.time()
    told = service.get("/health").headers.get("date", "")
    between = (before + time.time()) / 2
    try:
        there = parsedate_to_datetime(told).timestamp() + DATE_GRAIN_S / 2
    except ValueError:
        return skip("it tells no `Date`")
    return agreement("the service", there - between, DATE_GRAIN_S)


def key(service: Service) -> Verdict:
    """Whether the key is accepted, and anything else is not.

    Raises:
        Failed: it does not answer.
    """
    path = f"/queue/{APP}/requests/{uuid4()}/status"
    if (stranger := service.get(path, key=f"no-key:{uuid4()}")).status_code != 401:
        said = f"a key that was made up is answered {stranger.status_code}, and not 401"
        return fail(said, "see what answers at --url, and whether it puts a key of its own in")
    if not service.key:
        return skip("strangers are refused; no --key to try")
    if (answer := service.get(path, key=service.key)).status_code == 404:  # no such request
        return ok("accepted, and strangers are refused")
    return fail(
        f"refused: {error_line(answer)}", "give another --key; `florence keys list` has them"
    )


def webhook_keys(service: Service) -> Verdict:
    """Whether receivers find what they need to verify webhooks.

    Raises:
        Failed: it does not answer.
    """
    answer = service.get("/.well-known/jwks.json")
    try:
        found = answer.json()["keys"]
    except (ValueError, LookupError, TypeError):
        return fail(f"/.well-known/jwks.json answers {error_line(answer)}", REMEDY)
    if not found:
        return warn("none is published yet", "see a Dispatcher's log: its keys could not be read")
    return ok(f"{len(found)} published")


def paths(service: Service) -> Verdict:
    """Whether Ray's dashboard is behind the same address: who reaches it runs code.

    Raises:
        Failed: it does not answer.
    """
    open_ = [path for path in RAYS_PATHS if service.get(path).is_success]
    if open_:
        said = f"Ray's dashboard is behind this address: {', '.join(open_)}"
        return fail(said, "route the service's port alone (8000), never 8265")
    return ok("nothing of Ray is behind this address")
