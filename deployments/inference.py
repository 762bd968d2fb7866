"""The Inference box: pixels and a task → token ids, batched around one model."""

import logging

from deployments.errors import GenerationError, ServiceError
from deployments.florence.batcher import Batched, Batcher
from deployments.florence.cores import take_every_core
from deployments.florence.run import Generated, Prepared, Query, Run, Stages, Tokens
from deployments.florence.tasks import TASKS
from deployments.metrics import RayRecorder, Recorder
from deployments.settings import Settings

logger = logging.getLogger("ray.serve.florence")  # Serve writes these to the replica's log


class Inference:
    """One replica: a loaded, warm model behind a bounded queue."""

    def __init__(self, settings: Settings, recorder: Recorder | None = None) -> None:
        from deployments.florence.model import Model  # torch is loaded in this box's replicas alone

        self._settings = settings.inference
        self._model = Model(settings.model, settings.inference)
        self._prompts = {
            path: self._model.checkpoint.prompt(task.sentence) for path, task in TASKS.items()
        }
        self._model.warm_up(self._settings.max_batch_size, max(self._prompts.values(), key=len))
        self._batcher: Batcher[Query, Tokens] = Batcher(
            self._model.generate,
            max_batch_size=self._settings.max_batch_size,
            max_wait_s=self._settings.max_wait_ms / 1000,
            max_queue=self._settings.max_queue,
            prepare=take_every_core if settings.model.own_cores else None,
        )
        self._recorder = recorder or RayRecorder()

    async def run(self, prepared: Prepared, run: Run) -> Generated:
        """The model's answer to `run` about the image in `prepared`.

        Raises:
            Overloaded: too many wait already.
            StartTimeout, RequestTimeout: its time was over before the model was free, or done.
            GenerationError: the model failed on this image.
        """
        query = Query(prepared.pixels, self._prompts[run.task])
        try:
            batched = await self._batcher.submit(query, run)
        except ServiceError:
            raise
        except Exception as error:
            logger.exception("the model failed on request %s", run.id)
            raise GenerationError() from error
        stages = measured(batched)
        self._record(stages)
        return Generated(batched.result, stages)

    def check_health(self) -> None:
        """Serve asks this.

        Raises:
            InternalError: the engine thread is dead or stuck.
        """
        self._batcher.check(self._settings.stall_timeout_s)

    async def ready(self) -> bool:
        """Whether this box can work: a replica is made only when its model is warm."""
        return True

    def _record(self, stages: Stages) -> None:
        record = self._recorder.record
        record("florence_inference_queue_wait_seconds", stages.queue_wait_s)
        record("florence_inference_model_seconds", stages.model_s)
        record("florence_inference_batch_size", stages.batch_size)
        record("florence_inference_batches_total", stages.batch_share)
        record("florence_inference_tokens", stages.num_tokens)


def measured(batched: Batched[Tokens]) -> Stages:
    """What the batcher measured about one request."""
    return Stages(
        queue_wait_s=batched.waited_s,
        model_s=batched.ran_s,
        batch_size=batched.batch_size,
        batch_share=1 / batched.batch_size,
        num_tokens=len(batched.result),
    )
