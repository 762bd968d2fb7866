"""The table of timings, and all that is made from it."""

from dataclasses import fields
from typing import Any

import pytest
from opentelemetry.trace import INVALID_SPAN

from deployments.florence.stages import Stages
from deployments.telemetry.metrics import METRICS
from tests.test_architecture import DEPLOYMENTS

STAGES = Stages(
    fetch_s=0.5,
    decode_s=0.25,
    queue_wait_s=0.125,
    model_s=2.0,
    postprocess_s=1.0,
    batch_size=4,
    batch_share=0.25,
    num_tokens=12,
    source_bytes=34567,
    width=320,
    height=240,
)


class Kept:
    """Keeps what it is given, as a recorder and as a tracer."""

    def __init__(self) -> None:
        self.recorded: dict[str, float] = {}
        self.spans: list[tuple[str, float, float]] = []

    def record(self, name: str, value: float = 1.0, **_labels: str) -> None:
        """See Recorder."""
        self.recorded[name] = value

    def refresh(self) -> None:
        """See Recorder."""

    def past(self, name: str, _parent: str, seconds: float, ago_s: float, **_: Any) -> None:
        """See Tracer."""
        self.spans.append((name, seconds, ago_s))


def recorded(deployment: str = "") -> dict[str, float]:
    """What is recorded of one deployment, or of all."""
    kept = Kept()
    STAGES.record(kept, deployment)
    return kept.recorded


def test_each_deployment_adds_what_it_knows() -> None:
    """And changes nothing else."""
    first = Stages(fetch_s=1.0)
    assert first.with_(model_s=2.0) == Stages(fetch_s=1.0, model_s=2.0)
    assert first == Stages(fetch_s=1.0)


def test_rows_name_deployments_and_metrics() -> None:
    """Every measure is taken by a deployment, and every metric is declared."""
    names = {deployment.__name__ for deployment in DEPLOYMENTS}
    assert {each.metadata["measure"].deployment for each in fields(Stages)} <= names
    assert set(recorded()) <= set(METRICS)


def test_every_metric_is_recorded_by_one_deployment() -> None:
    """What the deployments record together is what the Ingress records of all."""
    parts = [recorded(name) for name in ("Preprocess", "Inference", "Postprocess")]
    assert sum(map(len, parts)) == len(recorded())
    assert parts[0] | parts[1] | parts[2] == recorded()
    assert parts[0] == {
        "florence_preprocess_fetch_seconds": 0.5,
        "florence_preprocess_decode_seconds": 0.25,
        "florence_preprocess_shared_total": 0,
    }


def test_a_job_reads_what_happened() -> None:
    """Each stage has a line, as old as its end."""
    assert list(STAGES.lines()) == [
        ("Fetched 34567 bytes in 500 ms", 3.375),
        ("Decoded 320 x 240 pixels in 250 ms", 3.125),
        ("Batched with 3 others after 125 ms", 3.0),
        ("Generated 12 tokens in 2000 ms", 1.0),
        ("Stored the answer in 1000 ms", 0.0),
    ]


def test_a_log_line_has_milliseconds() -> None:
    """And the numbers, under the names that the documentation has."""
    assert STAGES.logged() == {
        "fetch_ms": 500,
        "decode_ms": 250,
        "queue_wait_ms": 125,
        "model_ms": 2000,
        "postprocess_ms": 1000,
        "batch_size": 4,
        "tokens": 12,
        "truncated": 0,
        "image_hits": 0,
        "source_bytes": 34567,
    }


@pytest.mark.parametrize(
    ("deployment", "total_s", "expected"),
    [
        ("Inference", 0.0, [("wait", 0.125, 2.0), ("batch", 2.0, 0.0)]),
        ("Preprocess", 1.0, [("fetch", 0.5, 0.5), ("decode", 0.25, 0.0)]),
        ("Postprocess", 1.0, []),
    ],
)
def test_spans_follow_each_other_and_end_now(
    deployment: str, total_s: float, expected: list[Any]
) -> None:
    """The first begins with its deployment's; between two there may be a wait."""
    kept: Any = Kept()
    STAGES.trace(kept, INVALID_SPAN, deployment, total_s)
    assert expected == kept.spans


def test_the_model_is_shared_by_a_batch() -> None:
    """A request pays for its own part; while it waits, no deployment works on it."""
    assert STAGES.own_model_s == 0.5
    assert STAGES.worked_s == 3.75
