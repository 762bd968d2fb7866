"""Executes one job: a request through the pipeline, and its answer as the job's outcome."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from deployments.florence import identity
from deployments.florence.messages import Finished, Request
from deployments.florence.tasks import TASKS
from deployments.jobs.job import Job, JobOutcome, LogLine
from deployments.telemetry.request_span import request_span
from deployments.telemetry.tracing import Tracer


class JobExecutor:
    """Executes jobs with `run`, each within `deadline_s`, in the trace of its submit."""

    def __init__(
        self, run: Callable[[Request], Awaitable[Finished]], deadline_s: float, tracer: Tracer
    ) -> None:
        self._run = run
        self._deadline_s = deadline_s
        self._tracer = tracer

    async def execute(self, job: Job) -> JobOutcome:
        """Make one attempt.

        Raises:
            ServiceError: what the client should see.
        """
        if job.attempt == 1:
            self._tracer.past("queue", job.trace, job.waited_s)
        with request_span(
            self._tracer,
            "execute",
            job.trace,
            "consumer",
            request_id=job.id,
            endpoint=job.path,
            key_id=job.key_id,
            attempt=job.attempt,
            waited_ms=round(job.waited_s * 1000, 3),
        ) as span:
            request = request_of(job, time.time() + self._deadline_s)
            span.note(adapter=request.input.adapter)
            finished = await self._run(replace(request, trace=span.traceparent))
            span.note(**finished.stages.logged())
        return outcome_of(finished)


def request_of(job: Job, deadline: float) -> Request:
    return Request(
        id=job.id,
        task=job.path,
        input=TASKS[job.path].input.model_validate_json(job.input),
        key_id=job.key_id,
        deadline=deadline,
        priority=job.priority,
        base_url=job.base_url,
        files_ttl_s=job.files_ttl_s,
    )


def outcome_of(finished: Finished) -> JobOutcome:
    stages = finished.stages
    return JobOutcome.done(
        finished.output,
        inference_s=round(stages.model_s, 6),
        model_s=stages.own_model_s,
        num_tokens=stages.num_tokens,
        truncated=bool(stages.truncated),
        headers=identity.headers(finished.model),
        files=finished.files,
        logs=tuple(LogLine(line, age_s=ago_s) for line, ago_s in stages.lines()),
    )
