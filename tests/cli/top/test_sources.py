"""Where metrics are found, and what is said when there are none."""

import json
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from deployments.cli.top import sources as module
from deployments.cli.top.sources import Exporters, address, sources
from deployments.errors import SetupError
from deployments.local.ports import free_port
from deployments.local.state import StateFolder
from deployments.telemetry.metrics import PrometheusRecorder
from tests.cli.conftest import Florence
from tests.cli.top.exporting import RAYS_OWN, text_of

PAGES = {
    "/metrics": text_of(PrometheusRecorder()),
    "/ray": RAYS_OWN,
    "/page": "<html>hello</html>",
}


class Pages(BaseHTTPRequestHandler):
    """Serves PAGES."""

    def do_GET(self) -> None:
        body = PAGES.get(self.path, "").encode()
        self.send_response(200 if body else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """An exporter, and pages that are none."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _no_other_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another Ray of this machine is not seen."""
    monkeypatch.setattr(module, "RAYS", tmp_path / "rays.json")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a:80", "http://a:80/metrics"),
        ("http://a:80/", "http://a:80/metrics"),
        ("https://a/x/metrics?y=1", "https://a/x/metrics?y=1"),
    ],
)
def test_an_address_has_a_path(url: str, expected: str) -> None:
    """The usual one, where none is given."""
    assert address(url) == expected


@pytest.mark.parametrize("url", ["a:80", "ftp://a", "http://", "metrics", ""])
def test_what_is_no_address_is_refused(url: str, tmp_path: Path) -> None:
    """With one that is."""
    with pytest.raises(SetupError, match=r"write http://HOST:PORT/metrics"):
        sources([url], tmp_path)


def test_the_service_of_this_machine_is_found(tmp_path: Path) -> None:
    """By what it left in its state folder; else by what Ray leaves on a cluster's head."""
    targets = json.dumps([{"targets": ["127.0.0.1:1", "127.0.0.1:2"], "labels": {}}])
    module.RAYS.write_text(targets.replace("127", "128"))
    assert sources([], tmp_path)[0] == "http://128.0.0.1:1/metrics"
    StateFolder(tmp_path).targets.write_text(targets)
    expected = ["http://127.0.0.1:1/metrics", "http://127.0.0.1:2/metrics"]
    assert sources([], tmp_path) == expected


def test_without_a_service_the_remedy_is_told(tmp_path: Path) -> None:
    """Nothing was started here, or its file is broken."""
    with pytest.raises(SetupError, match=r"start `florence serve`, or give --url"):
        sources([], tmp_path)
    for broken in ("", "[]", "{}", '[{"labels": {}}]'):
        StateFolder(tmp_path).targets.write_text(broken)
        with pytest.raises(SetupError, match="names no exporter"):
            sources([], tmp_path)


def test_what_exporters_say_is_fetched(site: str) -> None:
    """Of all of them."""
    urls = [f"{site}/metrics", f"{site}/ray"]
    with closing(Exporters(urls)) as exporters:
        found = exporters.fetch()
    assert found.sources[urls[0]]["florence_inference_steps_total", ()] == 0.0
    assert found.sources[urls[1]] == {}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/page", "is no page of metrics"),
        ("/ray", "no metric of Florence Serve"),
        ("/none", "answers 404"),
    ],
)
def test_other_pages_are_one_line(site: str, path: str, said: str, florence: Florence) -> None:
    """What is wrong with the address, and what to do."""
    outcome = florence("top", "--once", "--url", f"{site}{path}")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert said in outcome.err
    assert "give --url http://HOST:PORT/metrics" in outcome.err


def test_an_exporter_that_is_away_is_one_line(florence: Florence) -> None:
    """Not a traceback."""
    outcome = florence("top", "--url", f"http://127.0.0.1:{free_port('127.0.0.1')}/metrics")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "no answer from" in outcome.err


@pytest.mark.slow
def test_numbers_for_scripts(site: str, florence: Florence) -> None:
    """One JSON value; without a terminal a picture is drawn once."""
    outcome = florence("top", "--json", "--window", "1", "--url", site)
    told = json.loads(outcome.out)
    assert (outcome.code, told["engine"]["slots"]) == (0, None)
    assert {"traffic", "queue", "engine", "stages", "cpu", "store", "keys"} <= told.keys()
    drawn = florence("top", "--window", "1", "--url", site)
    assert (drawn.code, drawn.err) == (0, "")
    assert "florence top" in drawn.out
