"""A collector of traces: it takes OTLP over HTTP, or never answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

#: Longer than any test: what arrives has been sent by a stop, not by the timer.
NEVER_MS = 600_000


class CollectedSpan(NamedTuple):
    """A span, and the resource that it came from."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    failed: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]


class TraceCollector:
    """What a collector has received."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.bodies: list[bytes] = []
        self.asked = Event()
        """Set when a request has arrived, answered or not."""

    def variables(self, schedule_delay_ms: int = NEVER_MS) -> dict[str, str]:
        """Return the variables of a process that sends its traces here."""
        return {
            "TRACES_ENABLED": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._port}",
            "OTEL_BSP_SCHEDULE_DELAY": str(schedule_delay_ms),
            "NO_PROXY": "127.0.0.1",
        }

    @property
    def spans(self) -> list[CollectedSpan]:
        """All spans, in the order in which they arrived."""
        return [
            CollectedSpan(
                span.name,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                span.status.code == span.status.STATUS_CODE_ERROR,
                _values(span.attributes),
                _values(of_resource.resource.attributes),
            )
            for body in self.bodies
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    def named(self, name: str) -> list[CollectedSpan]:
        """Return the spans of this name."""
        return [span for span in self.spans if span.name == name]


def _values(attributes: Any) -> dict[str, Any]:
    def value(each: KeyValue) -> Any:
        return getattr(each.value, each.value.WhichOneof("value") or "string_value")

    return {each.key: value(each) for each in attributes}


@contextmanager
def open_trace_collector(*, answers: bool = True) -> Iterator[TraceCollector]:
    """Run a collector on a free port. Without `answers` it reads requests, and no more."""
    closing = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            collector.bodies.append(body)
            collector.asked.set()
            if not answers:
                closing.wait()
                return
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector = TraceCollector(server.server_port)
    serving = Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield collector
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        serving.join()
