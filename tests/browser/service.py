"""The whole service in one process, without Ray: the deployments are plain classes.

It can be stopped and started again at the same address, as a person's service may be.
"""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import uvicorn

from deployments.api.admission import Shutdown
from deployments.api.app import create_app
from deployments.api.auth import Keyring
from deployments.api.dependencies import Dependencies
from deployments.dispatcher import Dispatcher
from deployments.files.open import open_file_store
from deployments.florence.checkpoint import open_checkpoint
from deployments.florence.identity import name_of
from deployments.florence.prompts import Prompts
from deployments.inference import Inference
from deployments.jobs.open import open_store
from deployments.local.ports import free_ports
from deployments.pipeline import Handle, Pipeline
from deployments.postprocess import Postprocess
from deployments.preprocess import Preprocess
from deployments.settings import Settings, hash_key, parse
from deployments.telemetry.metrics import PrometheusRecorder

KEY = "florence-browser"
START_S = 60.0


async def known(given: Any) -> Any:
    """What another deployment has begun, when it is done."""
    return await given if inspect.isawaitable(given) else given


def begun(work: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Begins `work` at once; several may await the result, as with Ray's handle."""

    async def run(*given: Any) -> Any:
        return await work(*[await known(each) for each in given])

    return lambda *given: asyncio.ensure_future(run(*given))


async def always() -> bool:
    return True


class WholeService:
    """A service that listens on loopback, in a thread of its own."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        tree: dict[str, Any] = {
            "model": {"path": "demo", "device": "cpu"},
            "keys": {"hashes": [hash_key(KEY)]},
            "store": {"url": f"sqlite:///{folder / 'queue.db'}"},
            "files": {"root": str(folder / "files")},
            "webhooks": {"keys": str(folder / "webhooks")},
        }
        self.settings: Settings = parse(tree | sections)
        [self.port] = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.recorder = PrometheusRecorder()
        self.inference = Inference(self.settings, self.recorder)
        self.start()

    def start(self) -> None:
        """Listen, and return when requests are answered."""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(START_S)

    def stop(self) -> None:
        """Close every connection, those in use after a second."""
        self._server.should_exit = True
        self._thread.join(START_S)
        assert not self._thread.is_alive()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of `work`, in the service's own event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)

    async def _serve(self) -> None:
        settings, recorder = self.settings, self.recorder
        preprocess, postprocess = Preprocess(settings, recorder), Postprocess(settings, recorder)
        store = self.store = await open_store(settings.store, settings.queue)
        checkpoint = open_checkpoint(settings.model)

        async def stream(prepared: Any, request: Any) -> Any:
            async for partial in self.inference.stream(await known(prepared), request):
                yield partial

        handles = (
            Handle(begun(preprocess.run), always),
            Handle(begun(self.inference.run), always, stream=stream),
            Handle(begun(postprocess.run), always),
        )
        dispatcher = Dispatcher(settings, *handles, store, recorder, lambda _: None)
        loop = self._loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon(lambda: asyncio.ensure_future(dispatcher.wake()))

        pipeline = Pipeline.between(
            *handles,
            checkpoint.image_size,
            recorder=recorder,
            max_attempts=1,
            vocabulary=checkpoint.vocabulary,
        )
        app = create_app(
            Dependencies(
                settings=settings,
                bounds=checkpoint.bounds(settings.inference),
                model=name_of(checkpoint),
                prompts=Prompts(checkpoint, settings.inference),
                run=pipeline.run,
                ready=always,
                wake=wake,
                files=open_file_store(settings.files),
                store=store,
                keyring=Keyring(settings.keys, store),
                recorder=recorder,
                shutdown=Shutdown(),
            )
        )
        config = uvicorn.Config(
            app, port=self.port, log_level="error", ws="none", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        serving = asyncio.create_task(self._server.serve())
        while not self._server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        self._ready.set()
        await serving
        await dispatcher.stop()
        await store.close()
