"""`florence top`: where metrics are found, the numbers made of them, and what is drawn."""

import json
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
import pytest
from rich.console import Console

from deployments.cli import top as module
from deployments.cli.top import (
    Rates,
    Scrape,
    frames,
    metrics_urls,
    overview,
    quantile,
    samples_in,
    scrape,
)
from deployments.cli.top_screen import cell, draw
from deployments.errors import SetupError
from deployments.local.ports import free_port
from deployments.local.state import StateFolder
from deployments.telemetry.metrics import METRICS, PrometheusRecorder, Recorder
from tests.cli.conftest import Florence

REQUESTS = "florence_ingress_requests_total"
RUNS = "florence_ingress_run_seconds"
RAYS_OWN = """# HELP ray_node_cpu_count Processors of a node
# TYPE ray_node_cpu_count gauge
ray_node_cpu_count{SessionName="s"} 2.0
"""


def text_of(recorder: PrometheusRecorder, *, by_ray: bool = False) -> str:
    """What a recorder has, as the Ingress exports it or as Ray does."""
    text = recorder.exposition().decode()
    if not by_ray:
        return text
    for name in METRICS:
        plain = name.removesuffix("_total")
        text = text.replace(f"\n{plain}", f"\nray_{plain}").replace(f" {plain}", f" ray_{plain}")
    return RAYS_OWN + "\n".join(map(with_worker, text.splitlines())) + "\n"


def with_worker(line: str) -> str:
    """A sample with the label in which Ray's processes differ."""
    if line.startswith("#"):
        return line
    name, _, rest = line.partition(" ")
    if name.endswith("}"):
        return f'{name[:-1]},WorkerId="w"}} {rest}'
    return f'{name}{{WorkerId="w"}} {rest}'


def exported(at: float, *texts: str) -> Scrape:
    """Exporters `a`, `b`, … with these pages, at one moment."""
    return at, {url: samples_in(text, url) for url, text in zip("abcdef", texts, strict=False)}


class Exporting:
    """A recorder; what is recorded after `mark` is new."""

    def __init__(self, *, by_ray: bool = False) -> None:
        self.recorder = PrometheusRecorder()
        self._by_ray = by_ray
        self.mark()

    @property
    def record(self) -> Recorder:
        """Where to record."""
        return self.recorder

    def mark(self) -> None:
        """The first scrape."""
        self._before = text_of(self.recorder, by_ray=self._by_ray)

    def rates(self) -> Rates:
        """What has happened in the ten seconds since."""
        after = text_of(self.recorder, by_ray=self._by_ray)
        return Rates(exported(100.0, self._before), exported(110.0, after))

    def overview(self) -> dict[str, Any]:
        """The numbers."""
        return overview(self.rates())


@pytest.fixture(params=[False, True], ids=["ingress", "ray"])
def service(request: pytest.FixtureRequest) -> Exporting:
    """What the Ingress exports, and what Ray's exporter does."""
    return Exporting(by_ray=request.param)


def requests(number: float, status: str = "200") -> str:
    """An Ingress that has answered a number of requests."""
    recorder = PrometheusRecorder()
    recorder.record(REQUESTS, number, endpoint="e", status=status)
    return text_of(recorder)


def test_our_metrics_are_read_and_others_passed_over() -> None:
    """With their labels, and without Ray's prefix."""
    for text in (requests(1), RAYS_OWN + requests(1).replace("florence_", "ray_florence_")):
        found = samples_in(text, "a")
        assert found[REQUESTS, frozenset({("endpoint", "e"), ("status", "200")})] == 1.0
        assert not any(name.startswith("ray_node") for name, _ in found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>Not here</html>",
        '{"status": "ok"}',
        "# TYPE florence_x counter\nflorence_x one\n",
    ],
    ids=["empty", "page", "JSON", "broken"],
)
def test_other_texts_are_refused(text: str) -> None:
    """By their URL."""
    with pytest.raises(SetupError, match="http://there is no page of metrics"):
        samples_in(text, "http://there")


def test_a_rate_is_the_increase_by_the_time() -> None:
    """Added up over series and exporters."""
    rates = Rates(
        exported(5.0, requests(10), requests(0)), exported(15.0, requests(30), requests(10))
    )
    assert rates.seconds == 10.0
    assert rates.rate(REQUESTS) == 3.0
    assert rates.rates(REQUESTS, "status") == {"200": 3.0}


def test_a_counter_that_begins_anew_does_not_fall() -> None:
    """A replica that was started again has counted from zero: what it has is what is new."""
    rates = Rates(exported(0.0, requests(1000)), exported(10.0, requests(20)))
    assert rates.rate(REQUESTS) == 2.0


def test_a_series_that_is_new_began_at_zero() -> None:
    """The first error after hours is an error now."""
    rates = Rates(exported(0.0, requests(5)), exported(10.0, requests(5, "500")))
    assert rates.rates(REQUESTS, "status") == {"500": 0.5}


def test_of_an_exporter_that_is_new_nothing_is_known_yet() -> None:
    """What it counted in hours is not what happened since the last scrape."""
    rates = Rates(exported(0.0, requests(5)), exported(10.0, requests(15), requests(70_000)))
    assert rates.rate(REQUESTS) == 1.0


def test_what_is_not_exported_is_not_zero() -> None:
    """Neither as a rate, nor as a level, nor as a quantile."""
    rates = Rates(exported(0.0, requests(1)), exported(1.0, requests(1)))
    assert rates.rate("florence_none_total") is None
    assert rates.level("florence_inference_slots") is None
    assert rates.timing(RUNS)["p50_s"] is None


def test_levels_are_of_now() -> None:
    """Added up over replicas, or the greatest where all export the same."""

    def slots(*numbers: int) -> list[str]:
        texts = []
        for number in numbers:
            recorder = PrometheusRecorder()
            recorder.record("florence_inference_slots", number)
            recorder.record("florence_queue_requests", number, state="queued")
            texts.append(text_of(recorder))
        return texts

    rates = Rates(exported(0.0, *slots(1, 1)), exported(1.0, *slots(8, 4)))
    assert rates.level("florence_inference_slots") == 12
    assert rates.level("florence_inference_slots", max) == 8
    assert overview(rates)["engine"]["replicas"] == 2
    assert rates.levels("florence_queue_requests", "state") == {"queued": 8}


def test_a_quantile_is_of_what_is_new() -> None:
    """What was slow before the first scrape does not count."""
    service = Exporting()
    for _ in range(100):
        service.record.record(RUNS, 50.0, endpoint="e")
    service.mark()
    for _ in range(90):
        service.record.record(RUNS, 0.02, endpoint="e")
    for _ in range(10):
        service.record.record(RUNS, 0.2, endpoint="f")
    timing = service.rates().timing(RUNS)
    assert 0.01 < (timing["p50_s"] or 0) < 0.025
    assert 0.1 < (timing["p95_s"] or 0) < 0.25
    assert service.rates().timing(RUNS, endpoint="f")["p50_s"] == pytest.approx(0.175)


@pytest.mark.parametrize(
    ("buckets", "expected"),
    [
        ([], None),
        ([(1.0, 0.0), (float("inf"), 0.0)], None),
        ([(1.0, 10.0), (float("inf"), 10.0)], 0.5),
        ([(1.0, 0.0), (2.0, 4.0), (float("inf"), 4.0)], 1.5),
        ([(1.0, 1.0), (float("inf"), 10.0)], 1.0),
        ([(1.0, 0.0), (float("inf"), 10.0)], 1.0),
    ],
    ids=["none", "empty", "first", "second", "beyond", "all beyond"],
)
def test_quantiles_lie_in_their_bucket(
    buckets: list[tuple[float, float]], expected: float | None
) -> None:
    """Straight between its bounds; beyond the last bound nothing is known but that."""
    assert quantile(0.5, buckets) == expected


def test_the_model(service: Exporting) -> None:
    """Its time, the fill of its batch, what it writes."""
    record = service.record.record
    record("florence_inference_slots", 8)
    record("florence_inference_slots_taken", 5)
    record("florence_inference_busy_seconds_total", 7.5)
    record("florence_inference_steps_total", 100)
    record("florence_inference_rows_total", 400)
    record("florence_inference_written_tokens_total", 900)
    record("florence_inference_begun_total", 20, reason="full")
    for _ in range(30):
        record("florence_inference_tokens", 30)
    engine = service.overview()["engine"]
    assert (engine["replicas"], engine["slots"], engine["slots_taken"]) == (1, 8, 5)
    assert engine["busy"] == pytest.approx(0.75)
    assert engine["fill"] == pytest.approx(0.5)
    assert engine["images_per_s"] == pytest.approx(3.0)
    assert engine["tokens_per_s"] == pytest.approx(90.0)
    assert engine["begun_per_s"] == {"full": 2.0}


def test_processor_time_for_each_image(service: Exporting) -> None:
    """By deployment, in the order of a request's path."""
    record = service.record.record
    for name, cpu_s in (("Dispatcher", 1.0), ("Ingress", 2.0), ("store", 0.5)):
        record("florence_process_cpu_seconds_total", cpu_s, deployment=name)
    for _ in range(100):
        record("florence_inference_tokens", 30)
    cpu = service.overview()["cpu"]
    assert list(cpu) == ["ingress", "dispatcher", "store"]
    assert cpu["ingress"] == pytest.approx({"cores": 0.2, "per_image_s": 0.02})


def test_keys(service: Exporting) -> None:
    """Those with most requests, with what they were refused and what they use of the model."""
    record = service.record.record
    for number in range(8):
        record("florence_ingress_key_requests_total", 10 * number, key=f"key{number}")
    record("florence_ingress_key_refused_total", 5, key="key7", limit="rate")
    record("florence_ingress_key_refused_total", 5, key="key7", limit="concurrency")
    record("florence_ingress_key_model_seconds_total", 1.0, key="key7")
    record("florence_dispatcher_key_model_seconds_total", 2.0, key="key7")
    record("florence_queue_key_running", 3, key="key7")
    keys = service.overview()["keys"]
    assert list(keys) == ["key7", "key6", "key5", "key4", "key3"]
    expected = {"requests_per_s": 7.0, "refused_per_s": 1.0, "model": 0.3, "running": 3.0}
    assert keys["key7"] == pytest.approx(expected)


def test_the_store(service: Exporting) -> None:
    """Whether all reach it, and the calls that are made most."""
    record = service.record.record
    record("florence_store_up", 1)
    record("florence_store_bytes", 4096)
    for _ in range(20):
        record("florence_store_call_seconds", 0.002, operation="claim")
    record("florence_store_call_seconds", 0.002, operation="submit")
    record("florence_store_errors_total", operation="submit")
    store = service.overview()["store"]
    assert store["is_up"] is True
    assert list(store["calls"]) == ["claim", "submit"]
    assert store["calls"]["claim"]["per_s"] == 2.0
    assert (store["errors_per_s"], store["size_bytes"], store["free_bytes"]) == (0.1, 4096, None)


def test_one_process_that_misses_the_store_is_seen() -> None:
    """The others do not hide it."""
    there, away = PrometheusRecorder(), PrometheusRecorder()
    there.record("florence_store_up", 1)
    away.record("florence_store_up", 0)
    texts = [text_of(each) for each in (there, away)]
    shown = overview(Rates(exported(0.0, *texts), exported(1.0, *texts)))
    assert shown["store"]["is_up"] is False


def test_queue_webhooks_and_retries(service: Exporting) -> None:
    """By state, by outcome, by cause; retries of runs and of jobs are added up."""
    record = service.record.record
    record("florence_queue_requests", 12, state="queued")
    record("florence_queue_oldest_seconds", 3.5)
    record("florence_dispatcher_requests_total", 40, outcome="done")
    record("florence_webhooks", 2, state="dead")
    record("florence_webhooks_overdue_seconds", 9)
    record("florence_ingress_retries_total", cause="replica_died")
    record("florence_ingress_retries_total", cause="overloaded")
    record("florence_dispatcher_retries_total", 2, cause="overloaded")
    shown = service.overview()
    assert (shown["queue"]["requests"], shown["queue"]["oldest_s"]) == ({"queued": 12}, 3.5)
    assert shown["queue"]["outcomes_per_s"] == {"done": 4.0}
    assert (shown["webhooks"]["webhooks"], shown["webhooks"]["overdue_s"]) == ({"dead": 2}, 9)
    assert shown["retries_per_s"] == pytest.approx({"replica_died": 0.1, "overloaded": 0.3})


def test_autoscaling() -> None:
    """What Serve's controller exports of each deployment, where a policy runs."""
    text = "".join(
        f'# TYPE ray_{name} gauge\nray_{name}{{deployment="Inference"}} {value}\n'
        for name, value in (
            ("florence_autoscaling_wanted_replicas", 3.0),
            ("florence_autoscaling_demand", 20.0),
        )
    )
    shown = overview(Rates(exported(0.0, text), exported(1.0, text)))
    assert shown["autoscaling"] == {"Inference": {"demand": 20.0, "wanted_replicas": 3.0}}


def test_a_service_that_exports_nothing_is_no_error(service: Exporting) -> None:
    """What is not known stays unknown."""
    shown = service.overview()
    assert shown["engine"]["fill"] is None
    assert shown["queue"]["oldest_s"] is None
    assert shown["store"]["is_up"] is None


def test_a_service_that_is_away_is_awaited() -> None:
    """The last numbers stay, with what is wrong; then it goes on. Old scrapes are forgotten."""
    recorder = PrometheusRecorder()
    scraped = iter(range(1, 200))

    def scrape_at_times() -> Scrape:
        at = next(scraped)
        recorder.record(REQUESTS, endpoint="e", status="200")
        if at == 3:
            raise SetupError("no answer from http://a (gone)")
        return exported(float(at), text_of(recorder))

    shown = list(islice(frames(scrape_at_times, every_s=0.0, window_s=10.0), 20))
    rates = [each["traffic"]["by_status_per_s"]["200"] for each, _ in shown]
    assert rates == pytest.approx([1.0] * 20)
    assert [trouble for _, trouble in shown[:3]] == ["", "no answer from http://a (gone)", ""]
    assert [each["seconds"] for each, _ in shown[:3]] == [1.0, 1.0, 3.0]
    assert [each["seconds"] for each, _ in shown[-3:]] == [10.0] * 3


@pytest.fixture
def busy() -> dict[str, Any]:
    """A service in which everything happens."""
    service = Exporting()
    record = service.record.record
    record("florence_inference_slots", 8)
    record("florence_inference_slots_taken", 5)
    record("florence_inference_waiting", 12)
    record("florence_inference_busy_seconds_total", 7.5)
    record("florence_inference_steps_total", 100)
    record("florence_inference_rows_total", 400)
    record("florence_inference_written_tokens_total", 9000)
    for number, name in enumerate(("fetch", "decode"), 1):
        record(f"florence_preprocess_{name}_seconds", number / 1000)
    for name in ("queue_wait_seconds", "model_seconds", "tokens"):
        record(f"florence_inference_{name}", 1)
    for name in ("seconds", "picture_seconds"):
        record(f"florence_postprocess_{name}", 0.004)
    record("florence_dispatcher_wait_seconds", 0.7)
    record("florence_ingress_run_seconds", 0.7, endpoint="e")
    for status in ("200", "401", "422", "429", "499", "500", "503"):
        record("florence_ingress_requests_total", int(status), endpoint="e", status=status)
    for name in ("Ingress", "Preprocess", "Inference", "Postprocess", "Dispatcher", "store"):
        record("florence_process_cpu_seconds_total", 1, deployment=name)
    for number in range(9):
        record("florence_ingress_key_requests_total", number, key=f"{number:012d}")
        record("florence_store_call_seconds", 0.01, operation=f"operation_{number}")
    for reason in ("full", "joined", "waited", "alone"):
        record("florence_inference_begun_total", 12, reason=reason)
    for cause in ("replica_died", "connection_lost"):
        record("florence_ingress_retries_total", 3, cause=cause)
    record("florence_queue_requests", 10_000, state="queued")
    record("florence_queue_oldest_seconds", 95)
    for state in ("pending", "delivered", "dead"):
        record("florence_webhooks", 7, state=state)
    record("florence_webhooks_overdue_seconds", 3)
    record("florence_dispatcher_webhook_seconds", 0.05)
    record("florence_store_up", 0)
    record("florence_store_bytes", 5e6)
    record("florence_store_free_bytes", 5e10)
    numbers = {"backlog": 3.0, "oldest_seconds": 95.0, "demand": 20.0, "wanted_replicas": 3.0}
    return service.overview() | {"autoscaling": {"Inference": numbers, "Dispatcher": numbers}}


def drawn(shown: dict[str, Any], width: int, trouble: str = "") -> list[str]:
    """The lines on a terminal of this width."""
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(draw(shown, "127.0.0.1:8080", trouble))
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_it_fits(busy: dict[str, Any], width: int) -> None:
    """Everything that can happen at once, on the smallest terminal that is usual."""
    lines = drawn(busy, width)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for part in ("slots_taken 5", "queued 10,000", "busy 75%", "fill 50%", "dispatcher", "dead 7"):
        assert part in text


def test_errors_are_seen(busy: dict[str, Any]) -> None:
    """A store that is away, an exporter that does not answer."""
    assert "the store is away" in drawn(busy, 80)[0]
    assert "no answer" in drawn(busy, 80, "no answer")[0]


def test_nothing_is_known_at_first() -> None:
    """A service that has not been used is drawn all the same."""
    lines = drawn(Exporting().overview(), 80)
    assert "last 10 s" in lines[0]
    assert "nan" not in "\n".join(lines)


@pytest.mark.parametrize("width", [20, 40])
def test_a_narrow_terminal_is_no_error(busy: dict[str, Any], width: int) -> None:
    """Lines are cut."""
    assert max(map(len, drawn(busy, width))) <= width


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("running", None, "–"),
        ("running", 12.34, "12.3"),
        ("running", 1234.5, "1,234"),
        ("busy", 0.756, "76%"),
        ("per_s", 0.04, "0.0/s"),
        ("p50_s", 0.0, "0 s"),
        ("p50_s", 0.012, "12 ms"),
        ("oldest_seconds", 3.14159, "3.14 s"),
        ("size_bytes", 5e6, "5 MB"),
    ],
)
def test_numbers_are_short(key: str, value: float | None, expected: str) -> None:
    """In the unit that their key names; what is not known is a dash."""
    assert cell(key, value) == expected


PAGES = {
    "/metrics": requests(1),
    "/by-ray": text_of(PrometheusRecorder(), by_ray=True),
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
    """Exporters, and pages that are none."""
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
    monkeypatch.setattr(module, "RAYS_TARGETS", tmp_path / "rays.json")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a:80", "http://a:80/metrics"),
        ("http://a:80/", "http://a:80/metrics"),
        ("https://a/x/metrics?y=1", "https://a/x/metrics?y=1"),
    ],
)
def test_a_url_has_a_path(url: str, expected: str, tmp_path: Path) -> None:
    """The usual one, where none is given."""
    assert metrics_urls([url], StateFolder(tmp_path)) == [expected]


def test_the_service_of_this_machine_is_found(tmp_path: Path) -> None:
    """By what it left in its state folder; else by what Ray leaves on a cluster's head."""
    state = StateFolder(tmp_path)
    with pytest.raises(SetupError, match=r"start `florence serve`, or give --url"):
        metrics_urls([], state)
    targets = json.dumps([{"targets": ["127.0.0.1:1", "127.0.0.1:2"], "labels": {}}])
    module.RAYS_TARGETS.write_text(targets.replace("127", "128"))
    assert metrics_urls([], state)[0] == "http://128.0.0.1:1/metrics"
    for broken in ("", "[]", "{}", '[{"labels": {}}]'):
        state.targets.write_text(broken)
        assert metrics_urls([], state)[0] == "http://128.0.0.1:1/metrics"
    state.targets.write_text(targets)
    expected = ["http://127.0.0.1:1/metrics", "http://127.0.0.1:2/metrics"]
    assert metrics_urls([], state) == expected


def test_all_exporters_are_scraped(site: str) -> None:
    """An Ingress's page counts only where Ray does not export the same."""
    with httpx2.Client() as http:
        fetch = partial(scrape, http)
        _, found = fetch([f"{site}/metrics", f"{site}/ray"])
        assert found[f"{site}/metrics"]["florence_inference_steps_total", frozenset()] == 0.0
        assert found[f"{site}/ray"] == {}
        _, found = fetch([f"{site}/metrics", f"{site}/by-ray"])
        assert list(found) == [f"{site}/by-ray"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/page", "is no page of metrics"),
        ("/ray", "no metric of Florence Serve"),
        ("/none", "answers 404"),
    ],
)
def test_other_pages_are_one_line(site: str, path: str, text: str, florence: Florence) -> None:
    """What is wrong with the URL, and what to do."""
    outcome = florence("top", "--once", "--url", f"{site}{path}")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert text in outcome.err
    assert "give --url http://HOST:PORT/metrics" in outcome.err


@pytest.mark.parametrize("url", ["a:80", "ftp://a", "http://", "metrics", "", None])
def test_an_exporter_that_does_not_answer_is_one_line(url: str | None, florence: Florence) -> None:
    """Not a traceback, whatever is given for a URL."""
    given = f"http://127.0.0.1:{free_port('127.0.0.1')}/metrics" if url is None else url
    outcome = florence("top", "--url", given)
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "no answer from" in outcome.err
    assert "http://HOST:PORT/metrics" in outcome.err


def test_numbers_for_scripts(
    site: str, florence: Florence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One JSON value; without a terminal a frame is drawn once."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    outcome = florence("top", "--json", "--window", "1", "--url", site)
    shown = json.loads(outcome.out)
    assert (outcome.code, shown["engine"]["slots"]) == (0, None)
    assert {"traffic", "queue", "engine", "stages", "cpu", "store", "keys"} <= shown.keys()
    frame = florence("top", "--url", site, "--url", f"{site}/by-ray")
    assert (frame.code, frame.err) == (0, "")
    assert f"florence top  {site.removeprefix('http://')} +1  last" in frame.out
    assert waited == [1.0, 10.0]
