"""What is drawn fits the terminal and says what matters."""

import pytest
from rich.console import Console

from deployments.cli.top.overview import Overview, overview
from deployments.cli.top.screen import Screen, count, duration, size
from tests.cli.top.exporting import Service


@pytest.fixture
def busy() -> Overview:
    """A service in which everything happens."""
    service = Service()
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
    record("florence_store_up", 0)
    record("florence_store_bytes", 5e6)
    record("florence_store_free_bytes", 5e10)
    return overview(service.seen())


def drawn(shown: Overview, width: int, trouble: str = "") -> list[str]:
    """The lines on a terminal of this width."""
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(Screen(shown, "127.0.0.1:8080", trouble))
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_it_fits(busy: Overview, width: int) -> None:
    """Everything that can happen at once, on the smallest terminal that is usual."""
    lines = drawn(busy, width)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for told in ("5/8 slots", "10,000 waiting", "75%", "50%", "dispatcher", "7 dead"):
        assert told in text


def test_errors_are_seen(busy: Overview) -> None:
    """A store that is away, an exporter that does not answer."""
    assert "the store is away" in drawn(busy, 80)[0]
    assert "no answer" in drawn(busy, 80, "no answer")[0]


def test_nothing_is_known_at_first() -> None:
    """A service that has not been used is drawn all the same."""
    lines = drawn(overview(Service().seen()), 80)
    assert "last 10 s" in lines[0]
    assert "nan" not in "\n".join(lines)


@pytest.mark.parametrize("width", [20, 40])
def test_a_narrow_terminal_is_no_error(busy: Overview, width: int) -> None:
    """Lines are cut."""
    assert max(map(len, drawn(busy, width))) <= width


def test_numbers_are_short() -> None:
    """In the unit that suits them; what is not known is a dash."""
    assert [count(None), count(0.04), count(12.34), count(1234.5)] == ["–", "0.0", "12.3", "1,234"]
    assert [duration(each) for each in (None, 0.0, 0.0004, 0.012, 3.14159, 600.0)] == [
        "–", "0 s", "400 µs", "12 ms", "3.14 s", "10 min",
    ]  # fmt: skip
    assert [size(each) for each in (None, 900.0, 5e6, 2e12)] == ["–", "900 bytes", "5 MB", "2 TB"]
