"""The Inference deployment: pixels and a task → token ids, batched around one model."""

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import lru_cache, partial
from typing import Any

from deployments.autoscaling import ONGOING
from deployments.errors import GenerationError, ServiceError
from deployments.florence.batcher import Batched, Batcher
from deployments.florence.cache import Cache
from deployments.florence.cores import take_every_core
from deployments.florence.counters import Tally
from deployments.florence.forecast import Forecast
from deployments.florence.progress import progress
from deployments.florence.request import (
    Generated,
    Partial,
    Prepared,
    Query,
    Request,
    Tokens,
)
from deployments.florence.stages import Stages
from deployments.florence.tasks import TASKS
from deployments.settings import Settings
from deployments.telemetry.log import about, hide_client_errors, logger
from deployments.telemetry.metrics import RayRecorder, Recorder
from deployments.telemetry.process_metrics import ProcessMetrics
from deployments.telemetry.tracing import (
    Span,
    Tracer,
    open_tracer,
    set_attributes,
    traceparent,
)

SWITCH_S = 1e-4  # after Python's own 5 ms, two steps long, the engine would wait for an event loop
NUM_PROMPTS = 256  # that are kept as token ids


class Inference:
    """One replica: a loaded, warm model behind a bounded queue."""

    def __init__(
        self,
        settings: Settings,
        recorder: Recorder | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        hide_client_errors()
        from deployments.florence.backends import open_backend  # torch is in this deployment alone
        from deployments.florence.model import Model

        sys.setswitchinterval(SWITCH_S)
        self._settings = settings.inference
        model = Model(settings.model)
        self._encode = lru_cache(NUM_PROMPTS)(model.checkpoint.prompt)
        longest = [task.longest_prompt(model.checkpoint) for task in TASKS.values()]
        self._forecast = Forecast()
        self._cache: Cache[Any] | None = None
        if self._settings.image_cache_mb:
            self._cache = Cache(self._settings.image_cache_mb * 1_000_000)
        self._num_beams = settings.inference.num_beams or model.num_beams
        self._batcher: Batcher[Query, Tokens] = Batcher(
            open_backend(model, self._settings, longest, self._cache),
            max_wait_s=self._settings.max_wait_ms / 1000,
            max_queue=self._settings.max_queue,
            max_cost=self._settings.max_queue_tokens,
            turn_steps=self._settings.turn_tokens,
            prepare=take_every_core if settings.model.own_cores else None,
        )
        self._recorder = recorder or RayRecorder()
        self._told = Tally()
        self._metrics = ProcessMetrics(self._recorder, "Inference", self._tell)
        self._tracer = tracer or open_tracer(settings.tracing, "Inference")

    async def run(self, prepared: Prepared, run: Request) -> Generated:
        """The model's answer to `run` about the image in `prepared`.

        Raises:
            Overloaded: too much waits already.
            StartTimeout, RequestTimeout: its time was over before the model was free, or done.
            GenerationError: the model failed on this image.
        """
        return await self._answer(prepared, run)

    async def stream(
        self, prepared: Prepared, run: Request
    ) -> AsyncGenerator[Partial | Generated, None]:
        """What the model has said so far, each time it is more, then what `run` returns.

        Who stops listening has cancelled the run.
        """
        length = 0
        async with aclosing(progress(partial(self._answer, prepared, run))) as saying:
            async for said in saying:
                if isinstance(said, Generated):
                    yield said
                elif len(said) > length:
                    length = len(said)
                    yield Partial(said, prepared.size)

    def __del__(self) -> None:
        """Serve calls this when it stops a replica."""
        if hasattr(self, "_tracer"):  # missing when __init__ has failed
            self._tracer.close()

    async def _answer(
        self, prepared: Prepared, run: Request, report: Callable[[Tokens], None] | None = None
    ) -> Generated:
        with self._tracer.span("inference", run.trace, request_id=run.id, task=run.task) as span:
            generated = await self._generate(prepared, run, report)
            note(self._tracer, span, generated.stages)
            return generated

    async def _generate(
        self, prepared: Prepared, run: Request, report: Callable[[Tokens], None] | None
    ) -> Generated:
        query = self._query(prepared, run)
        try:
            batched = await self._batcher.submit(query, run, self._cost(query, run), report)
        except ServiceError:
            raise
        except Exception as error:
            extra = about(run.id, run.key_id, run.trace)
            logger.exception("the model failed on request %s", run.id, extra=extra)
            raise GenerationError() from error
        self._forecast.note(run.task, len(batched.result))
        stages = measured(batched, prepared.stages)
        self._record(stages)
        return Generated(batched.result, stages)

    def check_health(self) -> None:
        """Serve asks this.

        Raises:
            InternalError: the engine thread is dead or stuck.
        """
        self._batcher.check(self._settings.stall_timeout_s)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve asks this, for the policy that counts replicas."""
        return {ONGOING: self._batcher.num_ongoing}

    async def ready(self) -> bool:
        """Whether this deployment can work: a replica is made only when its model is warm."""
        return True

    def _query(self, prepared: Prepared, run: Request) -> Query:
        task = TASKS[run.task]
        # A queued request may have been submitted when there were more.
        num_beams = run.input.num_beams and min(run.input.num_beams, self._num_beams)
        return Query(
            prepared.pixels,
            self._encode(task.prompt(run.input, prepared.size)),
            num_beams,
            grammar=task.grammar,
            image_key=f"{run.key_id} {prepared.digest}" if prepared.digest else None,
        )

    def _cost(self, query: Query, run: Request) -> float:
        """Tokens that it reads, and those that its beams will write."""
        num_beams = query.num_beams or self._num_beams
        return len(query.prompt) + num_beams * self._forecast.num_tokens(run.task)

    def _record(self, stages: Stages) -> None:
        record = self._recorder.record
        stages.record(record, "Inference")
        if self._cache is not None:
            record("florence_inference_image_hits_total", self._cache.take_hits())
            record("florence_inference_image_cache_bytes", self._cache.num_bytes)

    def _tell(self) -> None:
        """How full the batch is, and what the engine has done since this was told last."""
        record, batcher = self._recorder.record, self._batcher
        record("florence_inference_slots", batcher.num_slots)
        record("florence_inference_slots_taken", batcher.num_running)
        record("florence_inference_waiting", batcher.num_waiting)
        tally = batcher.tally
        done, self._told = tally.since(self._told), tally
        record("florence_inference_steps_total", done.steps)
        record("florence_inference_rows_total", done.rows)
        record("florence_inference_busy_seconds_total", done.busy_s)
        for reason, number in done.begun.items():
            record("florence_inference_begun_total", number, reason=reason)


def note(tracer: Tracer, span: Span, stages: Stages) -> None:
    """Say in a trace how long a request waited for the model, and how long it was in it."""
    counted = stages.counted("Inference")
    set_attributes(span, **counted)
    for name, seconds, ago_s in stages.spans("Inference"):
        tracer.past(name, traceparent(span), seconds, ago_s, **counted)


def measured(batched: Batched[Tokens], before: Stages) -> Stages:
    """The stages `before`, and what the batcher measured about the same request."""
    return before.with_(
        queue_wait_s=batched.waited_s,
        model_s=batched.ran_s,
        batch_size=round(1 / batched.share) if batched.share else 1,
        batch_share=batched.share,
        num_tokens=len(batched.result),
    )
