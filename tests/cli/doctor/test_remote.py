"""Services that are not as they should be, over HTTP; a good one is in the acceptance tests."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import time
from typing import Any

import httpx2
import pytest

from deployments import __version__
from deployments.cli.doctor import remote
from deployments.cli.doctor.check import Level
from deployments.cli.doctor.remote import RemoteService

KEYS = {"keys": [{"kid": "a"}]}
JWKS = "/.well-known/jwks.json"


@dataclass
class Site:
    """What is answered, by path; the key that opens; how far its clock is ahead."""

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    key: str = "good"
    ahead_s: float = 0.0

    def answer(self, path: str, authorization: str) -> tuple[int, Any]:
        """A status and a body."""
        if path.startswith("/queue/"):
            known = authorization == f"Key {self.key}" or self.key == "any"
            return (404, {"detail": "no"}) if known else (401, {"detail": "who?"})
        return self.answers.get(path, (404, {"detail": "nothing"}))


@pytest.fixture
def site() -> Site:
    """A service in good health."""
    return Site(
        {
            "/health": (200, {"status": "ok"}),
            "/ready": (200, {"status": "ready"}),
            "/openapi.json": (200, {"info": {"version": __version__}}),
            JWKS: (200, KEYS),
        }
    )


@pytest.fixture
def service(site: Site) -> Iterator[RemoteService]:
    """Its address, and a good key."""

    class Handler(BaseHTTPRequestHandler):
        """Answers as the site says."""

        def do_GET(self) -> None:
            """Any path."""
            status, body = site.answer(self.path, self.headers.get("Authorization", ""))
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            """A run."""
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def date_time_string(self, timestamp: float | None = None) -> str:
            """By its own clock."""
            return formatdate(time() + site.ahead_s, usegmt=True)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, httpx2.Client() as http:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield RemoteService(f"http://127.0.0.1:{server.server_port}", http, "good")
        server.shutdown()
        thread.join()


def test_a_good_one_is_fine(service: RemoteService) -> None:
    """Every check."""
    checks = (
        remote.check_health,
        remote.check_clock,
        remote.check_key,
        remote.check_webhook_keys,
        remote.check_paths,
    )
    assert [check(service).level for check in checks] == [Level.OK] * 5


@pytest.mark.parametrize(
    ("path", "answer", "level", "said"),
    [
        (
            "/health",
            (502, {"detail": "bad gateway"}),
            Level.FAIL,
            "/health answers 502: bad gateway",
        ),
        ("/ready", (503, {"detail": "starting"}), Level.FAIL, "/ready answers 503: starting"),
        ("/openapi.json", (200, {"info": {"version": "0.1"}}), Level.WARN, "ready, version 0.1"),
        ("/openapi.json", (404, {}), Level.WARN, "version unknown"),
    ],
)
def test_what_is_wrong_with_its_health_is_reported(
    service: RemoteService, site: Site, path: str, answer: tuple[int, Any], level: Level, said: str
) -> None:
    """With what to do."""
    site.answers[path] = answer
    found = remote.check_health(service)
    assert (found.level, said in found.said, bool(found.remedy)) == (level, True, True), found.said


def test_a_clock_that_is_off_is_reported(service: RemoteService, site: Site) -> None:
    """By the `Date` of its answers."""
    site.ahead_s = -600
    found = remote.check_clock(service)
    assert (found.level, "behind ours" in found.said) == (Level.FAIL, True)
    site.ahead_s = 10
    assert remote.check_clock(service).level is Level.WARN


def test_a_wrong_key_fails(service: RemoteService, site: Site) -> None:
    """None is only not tried."""
    site.key = "another"
    found = remote.check_key(service)
    assert (found.level, found.said) == (Level.FAIL, "refused: 401: who?")
    assert remote.check_key(RemoteService(service.url, service.http)).level is Level.SKIP


def test_a_service_that_takes_any_key_fails(service: RemoteService, site: Site) -> None:
    """A proxy may put a key of its own in."""
    site.key = "any"
    found = remote.check_key(service)
    assert (found.level, "answered 404, and not 401" in found.said) == (Level.FAIL, True)


@pytest.mark.parametrize(
    ("answer", "level"),
    [((200, {"keys": []}), Level.WARN), ((200, []), Level.FAIL), ((404, {}), Level.FAIL)],
)
def test_receivers_need_keys(
    service: RemoteService, site: Site, answer: tuple[int, Any], level: Level
) -> None:
    """At least one, where fal's clients look."""
    site.answers[JWKS] = answer
    assert remote.check_webhook_keys(service).level is level


def test_rays_dashboard_is_not_to_be_there(service: RemoteService, site: Site) -> None:
    """Who reaches it runs code."""
    site.answers["/api/jobs/"] = (200, [])
    found = remote.check_paths(service)
    assert (found.level, "/api/jobs/" in found.said) == (Level.FAIL, True)
    assert "8265" in found.remedy


@pytest.mark.parametrize(
    ("answer", "level", "said"),
    [
        ((200, {"results": {"bboxes": []}}), Level.OK, "boxes: 0"),
        ((200, {"results": "a cat"}), Level.FAIL, "answers something else"),
        ((500, {"detail": "the model failed"}), Level.FAIL, "answers 500: the model failed"),
    ],
)
def test_a_run_must_answer_with_boxes(
    service: RemoteService, site: Site, answer: tuple[int, Any], level: Level, said: str
) -> None:
    """However many."""
    site.answers["/fal-ai/florence-2-large/region-proposal"] = answer
    found = remote.check_run(service)
    assert (found.level, said in found.said) == (level, True), found.said


def test_a_run_needs_a_key(service: RemoteService) -> None:
    """It was asked for, so it is not passed over."""
    assert remote.check_run(RemoteService(service.url, service.http)).level is Level.FAIL
