"""How long each stage of a request took: one table, from which everything that shows it is made."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Self

from deployments.telemetry.metrics import Recorder
from deployments.telemetry.tracing import Span, Tracer, set_attributes, traceparent


class Measure(NamedTuple):
    """How one field of `Stages` is published, and which deployment measures it.

    `log` is its name in log lines, `timing` in the Server-Timing header, `span` in traces.
    `line` is what a job's log says of it: `{0}` stands for the stages, `{ms}` for its length.
    """

    deployment: str
    metrics: tuple[str, ...] = ()
    log: str = ""
    timing: str = ""
    span: str = ""
    line: str = ""


def stage(deployment: str, metric: str, *, log: str, timing: str, line: str, span: str = "") -> Any:
    """A field of `Stages`: the length of one stage in seconds."""
    measure = Measure(deployment, (metric,), log, timing, span, line)
    return field(default=0.0, metadata={"measure": measure})


def count(deployment: str, *metrics: str, log: str = "") -> Any:
    return field(default=0, metadata={"measure": Measure(deployment, metrics, log)})


@dataclass(frozen=True)
class Stages:
    """How long each stage took, in seconds, and what it counted.

    The Server-Timing header, metrics, log lines, spans and a job's log are made from this table.
    `width` and `height` are the image's own, in pixels; `batch_share` is the request's part of
    its batch.
    """

    fetch_s: float = stage(
        "Preprocess",
        "florence_preprocess_fetch_seconds",
        log="fetch_ms",
        timing="fetch",
        span="fetch",
        line="Fetched {0.source_bytes} bytes in {ms}",
    )
    decode_s: float = stage(
        "Preprocess",
        "florence_preprocess_decode_seconds",
        log="decode_ms",
        timing="decode",
        span="decode",
        line="Decoded {0.width} x {0.height} pixels in {ms}",
    )
    queue_wait_s: float = stage(
        "Inference",
        "florence_inference_queue_wait_seconds",
        log="queue_wait_ms",
        timing="queue",
        span="wait",
        line="Batched with {others} others after {ms}",
    )
    model_s: float = stage(
        "Inference",
        "florence_inference_model_seconds",
        log="model_ms",
        timing="model",
        span="batch",
        line="Generated {0.written} in {ms}",
    )
    postprocess_s: float = stage(
        "Postprocess",
        "florence_postprocess_seconds",
        log="postprocess_ms",
        timing="postprocess",
        line="Stored the answer in {ms}",
    )
    batch_size: int = count("Inference", "florence_inference_batch_size", log="batch_size")
    batch_share: float = count("Inference", "florence_inference_batches_total")
    num_tokens: int = count(
        "Inference",
        "florence_inference_tokens",
        "florence_inference_written_tokens_total",
        log="tokens",
    )
    image_hits: int = count("Inference", "florence_inference_image_hits_total", log="image_hits")
    fetches_shared: int = count("Preprocess", "florence_preprocess_shared_total")
    truncated: int = count("Inference", log="truncated")
    source_bytes: int = count("Preprocess", log="source_bytes")
    width: int = count("Preprocess")
    height: int = count("Preprocess")

    def with_(self, **known: Any) -> Self:
        return replace(self, **known)

    @property
    def worked_s(self) -> float:
        """Seconds in which a deployment worked on the request."""
        return self.fetch_s + self.decode_s + self.model_s + self.postprocess_s

    @property
    def own_model_s(self) -> float:
        """The request's own share of the model's time; a batch is worked on together."""
        return self.model_s * self.batch_share

    @property
    def written(self) -> str:
        """How many tokens the answer has, and whether it was cut at its limit."""
        return f"{self.num_tokens} tokens" + (", cut at the limit" if self.truncated else "")

    def timings(self) -> dict[str, float]:
        """Seconds of each stage, in order, in the words of the Server-Timing header."""
        return {each.timing: value for _, each, value in self._measures() if each.timing}

    def logged(self) -> dict[str, float]:
        """The fields of a log line; lengths are in milliseconds."""
        return {
            each.log: milliseconds(value) if each.timing else value
            for _, each, value in self._measures()
            if each.log
        }

    def trace(self, tracer: Tracer, span: Span, deployment: str, total_s: float = 0.0) -> None:
        """Add one deployment's counts to its `span`, and below it a span for each of its stages.

        They follow each other from the beginning; the last ends now, `total_s` later at least.
        """
        own = [each for each in self._measures() if each[1].deployment == deployment]
        counts = {each.log or name: value for name, each, value in own if not each.timing}
        stages = [(each.span, value) for _, each, value in own if each.span]
        set_attributes(span, **counts)
        left_s = max(total_s, sum(seconds for _, seconds in stages))
        for number, (name, seconds) in enumerate(stages, start=1):
            left_s = left_s - seconds if number < len(stages) else 0.0
            tracer.past(name, traceparent(span), seconds, left_s, **counts)

    def lines(self) -> Iterator[tuple[str, float]]:
        """What a job's log says of each stage, and how many seconds before the last one's end."""
        stages = [(each.line, value) for _, each, value in self._measures() if each.line]
        left_s = sum(seconds for _, seconds in stages)
        for line, seconds in stages:
            left_s -= seconds
            ms = f"{seconds * 1000:.0f} ms"
            yield line.format(self, ms=ms, others=self.batch_size - 1), max(0.0, left_s)

    def record(self, recorder: Recorder, deployment: str = "") -> None:
        """Record every metric of one deployment, or of all.

        What another request did is recorded as that one's alone.
        """
        for _, each, value in self._measures():
            is_anothers = self.fetches_shared and each.deployment == "Preprocess" and each.timing
            if deployment in ("", each.deployment) and not is_anothers:
                for metric in each.metrics:
                    recorder.record(metric, value)

    def _measures(self) -> Iterator[tuple[str, Measure, float]]:
        for each in fields(self):
            yield each.name, each.metadata["measure"], getattr(self, each.name)


def milliseconds(seconds: float) -> float:
    """Seconds in milliseconds, to the microsecond."""
    return round(seconds * 1000, 3)
