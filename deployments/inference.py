"""The Inference deployment: pixels and a task → token ids, batched around one model."""

import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from math import inf
from typing import Any

from deployments.autoscaling import ONGOING
from deployments.errors import GenerationError, ServiceError
from deployments.florence.adapters import check_adapter
from deployments.florence.batcher import Batcher, Counters
from deployments.florence.cpu_affinity import name_engine_thread
from deployments.florence.identity import identity, name_of
from deployments.florence.image_cache import ImageCache
from deployments.florence.latest import latest
from deployments.florence.messages import Generated, Partial, Prepared, Request
from deployments.florence.prompts import Prompts
from deployments.florence.scheduler import LengthForecast
from deployments.florence.sequence import Progress, Sequence, Tokens
from deployments.florence.stages import Stages
from deployments.florence.tasks import TASKS
from deployments.settings import BASE, Settings
from deployments.telemetry.log import about, hide_client_errors, logger
from deployments.telemetry.metrics import RayRecorder, Recorder
from deployments.telemetry.process_metrics import ProcessMetrics
from deployments.telemetry.tracing import Tracer, open_tracer

ANSWERS = "florence_inference_answers_total"
TRUNCATED = "florence_inference_truncated_total"
SWITCH_S = 1e-4  # after Python's own 5 ms, two steps long, the engine would wait for an event loop


class Inference:
    """One replica: a loaded, warm model behind a bounded queue."""

    def __init__(
        self,
        settings: Settings,
        recorder: Recorder | None = None,
        tracer: Tracer | None = None,
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        """`on_failure` is called when the engine stops by itself, on its thread."""
        hide_client_errors()
        from deployments.florence.first_answer import check_answer
        from deployments.florence.model import Model
        from deployments.florence.open import open_backend  # torch is in this deployment alone

        sys.setswitchinterval(SWITCH_S)
        model, inference = Model(settings.model), settings.inference
        self._prompts = Prompts(model.checkpoint, inference)
        longest = [self._prompts.longest(task) for task in TASKS.values()]
        self._stall_timeout_s = inference.stall_timeout_s
        self._num_beams = inference.num_beams or model.num_beams
        self._name = name_of(model.checkpoint)
        self._adapters = settings.model.adapters
        self._dtype = str(model.dtype).removeprefix("torch.")
        self._forecast = LengthForecast()
        self._image_cache: ImageCache[Any] = ImageCache(inference.image_cache_bytes)
        backend = open_backend(model, inference, longest, self._image_cache)
        if settings.model.check_answer:
            check_answer(backend, model.checkpoint)
        self._batcher = Batcher(
            backend,
            max_wait_s=inference.max_wait_ms / 1000,
            max_queue=inference.max_queue,
            max_queue_tokens=inference.max_queue_tokens,
            turn_tokens=inference.turn_tokens,
            prepare=name_engine_thread if settings.model.own_cores else None,
            on_failure=on_failure,
        )
        self._recorder = recorder or RayRecorder()
        self._counted = Counters()
        self._metrics = ProcessMetrics(self._recorder, "Inference", self._record_batcher)
        self._tracer = tracer or open_tracer(settings.tracing, "Inference")

    async def run(self, prepared: Prepared, request: Request) -> Generated:
        """The model's answer to `request` about the image in `prepared`.

        Raises:
            Overloaded: too much waits already.
            InvalidInput: its text is too long, or more than text to this checkpoint, or there is no
                such adapter any more.
            StartTimeout, RequestTimeout: its time was over before the model was free, or done.
            EngineStopped: the device has failed, and this request may be tried elsewhere.
            GenerationError: the model failed on this image.
        """
        return await self._run(prepared, request)

    async def stream(
        self, prepared: Prepared, request: Request
    ) -> AsyncGenerator[Partial | Generated, None]:
        """The tokens so far, each time there are more, then what `run` returns.

        A caller that stops listening cancels the request.
        """
        length = 0
        async with aclosing(latest(partial(self._run, prepared, request))) as results:
            async for result in results:
                if isinstance(result, Generated):
                    yield result
                elif len(result.tokens) > length:
                    length = len(result.tokens)
                    model = self._identity(request)
                    yield Partial(result.tokens, prepared.size, model, result.scores)

    def check_health(self) -> None:
        """Serve asks this.

        Raises:
            EngineStopped: the engine has stopped.
            InternalError: it is stuck.
        """
        self._batcher.check(self._stall_timeout_s)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve asks this, for the policy that counts replicas."""
        return {ONGOING: self._batcher.num_ongoing}

    async def ready(self) -> bool:
        """Whether this deployment can work: a replica is made only when its model is warm."""
        return True

    def __del__(self) -> None:
        """Serve calls this when it stops a replica."""
        if hasattr(self, "_tracer"):  # missing when __init__ has failed
            self._tracer.close()

    async def _run(
        self,
        prepared: Prepared,
        request: Request,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Generated:
        with self._tracer.span(
            "inference",
            request.trace,
            request_id=request.id,
            task=request.task,
            adapter=adapter_of(request) or None,
        ) as span:
            sequence = self._sequence(prepared, request)
            tokens = await self._generate(sequence, request, on_progress)
            stages = measured(sequence, prepared.stages)
            self._forecast.add(request.task, len(tokens))
            self._recorder.record(ANSWERS, 1, adapter=sequence.adapter or BASE)
            self._record(stages)
            if sequence.truncated:
                self._recorder.record(TRUNCATED, 1, endpoint=TASKS[request.task].endpoint)
            stages.trace(self._tracer, span, "Inference")
            model, scores = self._identity(request), sequence.scores
            return Generated(tokens, stages, model, scores, sequence.truncated)

    def _sequence(self, prepared: Prepared, request: Request) -> Sequence:
        task, adapter = TASKS[request.task], request.input.adapter
        check_adapter(adapter, self._adapters)  # a queued request may be older than the settings
        prompt = self._prompts.encode(task, request.input, prepared.size)
        num_beams = self._beams_of(request)
        most = request.input.max_new_tokens or inf
        num_written = num_beams * min(self._forecast.num_tokens(request.task), most)
        return Sequence(
            prepared.pixels,
            prompt,
            num_beams,
            request.input.max_new_tokens,
            grammar=task.grammar,
            image_key=f"{request.key_id} {prepared.digest}" if prepared.digest else None,
            priority=request.priority,
            num_tokens=len(prompt) + num_written,
            start_by=request.start_by,
            deadline=request.deadline,
            no_repeat_ngram_size=request.input.no_repeat_ngram_size,
            scored=request.input.is_scored,
            adapter=adapter_of(request),
        )

    def _beams_of(self, request: Request) -> int:
        """A queued request may have been submitted when there were more."""
        return min(request.input.num_beams or self._num_beams, self._num_beams)

    def _identity(self, request: Request) -> str:
        num_beams = self._beams_of(request)
        return identity(self._name, self._dtype, num_beams, adapter_of(request))

    async def _generate(
        self,
        sequence: Sequence,
        request: Request,
        on_progress: Callable[[Progress], None] | None,
    ) -> Tokens:
        try:
            return await self._batcher.submit(sequence, on_progress)
        except ServiceError:
            raise
        except Exception as error:
            extra = about(request.id, request.key_id, request.trace)
            logger.exception("the model failed on request %s", request.id, extra=extra)
            raise GenerationError() from error

    def _record(self, stages: Stages) -> None:
        stages.record(self._recorder, "Inference")
        num_bytes = self._image_cache.num_bytes
        self._recorder.record("florence_inference_image_cache_bytes", num_bytes)

    def _record_batcher(self) -> None:
        """How full the batch is, and what the engine has done since the last call."""
        record, batcher = self._recorder.record, self._batcher
        record("florence_inference_slots", batcher.max_batch_size)
        record("florence_inference_slots_taken", batcher.num_running)
        record("florence_inference_waiting", batcher.num_waiting)
        counters = batcher.counters
        done, self._counted = counters.since(self._counted), counters
        record("florence_inference_steps_total", done.steps)
        record("florence_inference_rows_total", done.sequences)
        record("florence_inference_busy_seconds_total", done.busy_s)
        for reason, number in done.batches.items():
            record("florence_inference_begun_total", number, reason=reason)


def adapter_of(request: Request) -> str:
    """The adapter that answers; empty for none."""
    name = request.input.adapter
    return "" if name is None or name == BASE else name


def end_process() -> None:
    """End this replica, whose engine has stopped.

    Serve replaces a process that is gone at once, and no request is sent to it any more. A failed
    health check is believed at its third time, and until then a replica that answers at once, with
    an error, gets most of the requests.
    """
    logging.shutdown()  # the log says why
    os._exit(1)


def measured(sequence: Sequence, before: Stages) -> Stages:
    return before.with_(
        queue_wait_s=sequence.waited_s,
        model_s=sequence.ran_s,
        batch_size=round(1 / sequence.share) if sequence.share else 1,
        batch_share=sequence.share,
        num_tokens=len(sequence.tokens) - 1,  # the decoder's first is given, not written
        truncated=int(sequence.truncated),
        image_hits=int(sequence.image_is_known),
    )
