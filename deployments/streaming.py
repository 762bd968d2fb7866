"""The path of one run whose answer is told while it is written.

It is the pipeline's, but Inference is called for a stream, of which this process reads the tokens:
they pass it anyway, and reading them costs less than another hop.
"""

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from deployments.errors import InternalError
from deployments.florence.partial_parser import Reader
from deployments.florence.request import Finished, Generated, Partial, Request
from deployments.florence.tasks import TASKS
from deployments.florence.vocabulary import Vocabulary
from deployments.pipeline import Handle, Pipeline
from deployments.telemetry.metrics import Recorder


class Streaming:
    """Runs requests as a Pipeline does, and tells of their answers on the way.

    What `inference` begins is a stream: `Partial` each time there is more, at last `Generated`.
    """

    def __init__(
        self,
        preprocess: Handle,
        inference: Handle,
        postprocess: Handle,
        vocabulary: Vocabulary,
        recorder: Recorder,
        max_attempts: int,
    ) -> None:
        self._path = partial(Told, preprocess, inference, postprocess, recorder, max_attempts)
        self._vocabulary = vocabulary

    async def run(self, run: Request, tell: Callable[[Any], None]) -> Finished:
        """The finished run; `tell` gets the output so far, as JSON values, each time it has grown.

        Raises:
            ServiceError: what the client should see; nothing of Ray's gets out.
        """
        reader = Reader(TASKS[run.task], self._vocabulary, tell)
        return await self._path(reader=reader).run(run)


class Told(Pipeline):
    """The path of one run, of which `reader` tells."""

    def __init__(self, *parts: Any, reader: Reader) -> None:
        super().__init__(*parts)
        self._reader = reader

    async def _answer(self, begun: Any) -> Generated:
        stream: AsyncIterator[Partial | Generated] = begun
        async for said in stream:
            if isinstance(said, Generated):
                return said
            self._reader.read(said)
        raise InternalError("The model's answer has no end.")
