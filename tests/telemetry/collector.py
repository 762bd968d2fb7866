"""A collector on loopback: OTLP over HTTP, decoded by OpenTelemetry's own messages."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

TIMEOUT_S = 60.0


class Collector:
    """Takes spans and remembers them, with the headers that came with them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self._requests: list[ExportTraceServiceRequest] = []
        self._arrival = threading.Condition()

    def take(self, body: bytes, headers: dict[str, str]) -> bytes:
        """Remember what `body` holds, and answer it."""
        with self._arrival:
            self._requests.append(ExportTraceServiceRequest.FromString(body))
            self.headers.append(headers)
            self._arrival.notify_all()
        answer: bytes = ExportTraceServiceResponse().SerializeToString()
        return answer

    def spans(self, number: int) -> list[Any]:
        """All spans, as soon as there are as many."""
        with self._arrival:
            assert self._arrival.wait_for(lambda: len(self._spans()) >= number, TIMEOUT_S)
            return self._spans()

    def resource(self) -> dict[str, Any]:
        """What the spans have in common."""
        with self._arrival:
            attributes = self._requests[0].resource_spans[0].resource.attributes
        return {each.key: each.value.string_value or each.value.int_value for each in attributes}

    def _spans(self) -> list[Any]:
        return [
            span
            for request in self._requests
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens inside the block."""
    collector = Collector("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = collector.take(body, {k.lower(): v for k, v in self.headers.items()})
            self.send_response(collector.status if self.path == "/v1/traces" else 404)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="collector")
        thread.start()
        yield collector
        server.shutdown()
        thread.join()
