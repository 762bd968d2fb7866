"""One job through the pipeline: its request, its outcome, its log line, its spans."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import NotReady
from deployments.florence.messages import Finished, Request
from deployments.florence.stages import Stages
from deployments.jobs.executor import JobExecutor, outcome_of
from deployments.jobs.job import Job, JobState, Lease, LogLine
from deployments.settings import TracingSettings
from deployments.telemetry.tracing import Tracer, open_tracer
from tests.lines import Lines, logging_lines
from tests.telemetry.spans import spans_in

pytestmark = pytest.mark.anyio

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STAGES = Stages(
    fetch_s=0.5, model_s=2.0, batch_size=4, batch_share=0.25, num_tokens=7, source_bytes=34567
)
FINISHED = Finished({"results": "a red circle"}, STAGES, files=("picture.jpg",))


class Pipeline:
    """Keeps the requests; answers with FINISHED or raises `error`."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.requests: list[Request] = []

    async def run(self, request: Request) -> Finished:
        self.requests.append(request)
        if self.error:
            raise self.error
        return FINISHED


def executor(pipeline: Pipeline, tracer: Tracer | None = None) -> JobExecutor:
    return JobExecutor(pipeline.run, 60.0, tracer or open_tracer(TracingSettings(), "Dispatcher"))


def job(**changes: Any) -> Job:
    """A job called `a` that has waited for three seconds."""
    values: dict[str, Any] = {
        "lease": Lease("a", 1),
        "attempt": 1,
        "key_id": "key",
        "path": "caption",
        "input": '{"image_url": "data:,x"}',
        "base_url": "https://florence.example",
        "priority": 1,
        "files_ttl_s": 60.0,
        "waited_s": 3.0,
    }
    return Job(**values | changes)


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged in a test."""
    with logging_lines() as kept:
        yield kept


def test_a_result_says_who_answered() -> None:
    """In a header that is replayed with it, and not at all where nobody said so."""
    for model, headers in (("demo", {"x-florence-model": "demo"}), ("", {})):
        outcome = outcome_of(replace(FINISHED, model=model))
        assert outcome.headers == headers


async def test_a_job_becomes_a_request() -> None:
    """With its task, its input, its key's id, its priority and what its files need."""
    pipeline = Pipeline()
    await executor(pipeline).execute(job())

    [request] = pipeline.requests
    assert (request.id, request.task, request.key_id) == ("a", "caption", "key")
    assert request.input.image_url == "data:,x"
    assert (request.base_url, request.files_ttl_s) == ("https://florence.example", 60.0)
    assert request.priority == 1
    assert request.picture_key == ""  # a result that is stored names only stored files


@pytest.mark.parametrize(("given", "num_beams"), [('"num_beams": 1, ', 1), ("", None)])
async def test_a_request_has_the_beams_of_its_job(given: str, num_beams: int | None) -> None:
    """None stands for the deployment's number."""
    pipeline = Pipeline()
    await executor(pipeline).execute(job(input=f'{{{given}"image_url": "u"}}'))

    assert [request.input.num_beams for request in pipeline.requests] == [num_beams]


async def test_an_answer_becomes_the_outcome() -> None:
    """With the time in the model, the job's share of it, its files, and a line for each stage."""
    outcome = await executor(Pipeline()).execute(job())

    assert (outcome.state, outcome.status) == (JobState.DONE, 200)
    assert outcome.body == '{"results":"a red circle"}'
    assert (outcome.inference_s, outcome.model_s) == (2.0, 0.5)
    assert outcome.files == ("picture.jpg",)
    assert outcome.logs[0] == LogLine("Fetched 34567 bytes in 500 ms", age_s=2.0)
    assert len(outcome.logs) == 5


@pytest.mark.parametrize("truncated", [0, 1])
def test_an_outcome_says_what_was_written(truncated: int) -> None:
    """How many tokens, and whether the limit cut them."""
    outcome = outcome_of(replace(FINISHED, stages=STAGES.with_(truncated=truncated)))
    assert (outcome.num_tokens, outcome.truncated) == (7, bool(truncated))


async def test_an_attempt_is_one_log_line(lines: Lines) -> None:
    """With the request's id, its key, and the time in each stage, also in the queue."""
    await executor(Pipeline()).execute(job(attempt=2))
    [line] = lines.about("execute")
    expected = {"request_id": "a", "key_id": "key", "endpoint": "caption", "status": 200}
    expected |= {"attempt": 2, "waited_ms": 3000.0, "fetch_ms": 500.0, "model_ms": 2000.0}
    expected |= {"batch_size": 4}
    assert expected.items() <= line.items()
    assert line["total_ms"] > 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotReady(), {"status": 503, "error_type": "runner_scheduling_failure"}),
        (asyncio.CancelledError(), {"error_type": "cancelled"}),
    ],
    ids=["failed", "cancelled"],
)
async def test_a_failed_attempt_is_one_log_line(
    lines: Lines, error: BaseException, expected: dict[str, Any]
) -> None:
    """With the error that a client would see; a cancelled attempt has no status."""
    with pytest.raises(type(error)):
        await executor(Pipeline(error)).execute(job())
    [line] = lines.about("execute")
    assert {name: line[name] for name in ("status", "error_type") if name in line} == expected


async def test_an_attempt_belongs_to_the_trace_of_its_submit(lines: Lines, tmp_path: Path) -> None:
    """So do the wait in the queue, and the request in the pipeline."""
    tracer = open_tracer(TracingSettings(exporter="file", folder=str(tmp_path)), "Dispatcher")
    pipeline = Pipeline()
    await executor(pipeline, tracer).execute(job(trace=TRACE))
    tracer.close()
    spans = {span.name: span for span in spans_in(tmp_path)}

    assert set(spans) == {"queue", "execute caption"}
    assert {f"00-{span.trace}-{span.parent}-01" for span in spans.values()} == {TRACE}
    execute = spans["execute caption"]
    assert execute.kind == "consumer"
    expected = f"00-{execute.trace}-{execute.id}-01"
    assert [request.trace for request in pipeline.requests] == [expected]
    assert [line["trace_id"] for line in lines.about("execute")] == [execute.trace]
