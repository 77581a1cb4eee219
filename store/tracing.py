"""Traces: OpenTelemetry spans, sent over OTLP/HTTP. Imported only where TRACES_ENABLED is set.

Where the spans go, under which service name and how many of them is decided by the standard
variables: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and their relatives.

All spans are our own. The instrumentation packages record the text of statements and the query of
URLs, make one span per statement (a checkout of the pool is one) and name spans after the first
word of a statement, which is a comment in ours. Here a span has the attributes that its caller
names, and of an exception only the type: no key, header, parameter or URL can get into it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from threading import Thread
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import Span, SpanKind, Tracer

#: Part of a stop: a worker has 10 s for all of it, and an API process up to 8 s of other work.
FLUSH_TIMEOUT_S: Final = 1.5
PACKAGE: Final = "interaction-summary"
#: Standard variables that ask for a way of export other than the one there is.
_FIXED: Final = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
}


class TracesRefused(Exception):
    """Refusal to start with TRACES_ENABLED; the message has the reason and the remedy."""


def check_traces() -> None:
    """Raise TracesRefused if this process could not send traces as its environment asks."""
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError as error:
        raise TracesRefused(
            f"TRACES_ENABLED needs a package that is not installed ({error.name}): "
            f"pip install '{PACKAGE}[otel]'"
        ) from None
    for name, only in _FIXED.items():
        # The protocol of the signal overrides the general one.
        given = os.environ.get(name) or only
        if given != only:
            raise TracesRefused(f"{name}={given!r}: only {only} is supported; unset it")


class Traces:
    """Tracer of one process, and the export of its spans by a thread in the background.

    The thread belongs to the process that creates it, so each server process has its own.
    """

    def __init__(self, service: str) -> None:
        """Start the export; connects to nothing. `service`: used without OTEL_SERVICE_NAME.

        Raises TracesRefused.
        """
        check_traces()
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # An exit hook would wait up to 30 s for a collector that does not answer.
        self.provider = TracerProvider(resource=_resource(service), shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.tracer: Tracer = self.provider.get_tracer(PACKAGE, version(PACKAGE))

    def stop(self) -> None:
        """Send the spans that wait, for at most FLUSH_TIMEOUT_S. Blocks."""
        # The SDK's own limit is 30 s, and the one of its flush is not kept.
        flushing = Thread(target=self.provider.shutdown, name="traces", daemon=True)
        flushing.start()
        flushing.join(FLUSH_TIMEOUT_S)


def _resource(service: str) -> Resource:
    """Return what describes this process: the standard variables, then our defaults."""
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    defaults = Resource(
        {
            "service.version": version(PACKAGE),
            "host.name": socket.gethostname(),
            "process.pid": os.getpid(),
        }
    )
    resource = defaults.merge(Resource.create())
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: service}))
    return resource


@contextmanager
def span(
    tracer: Tracer,
    name: str,
    kind: SpanKind,
    attributes: Mapping[str, str | int],
    context: Context | None = None,
) -> Iterator[Span]:
    """Make a span for the block, and the parent of those within it.

    An exception marks it as failed. Only the exception's type is recorded: messages have values.
    """
    from opentelemetry.trace import StatusCode

    with tracer.start_as_current_span(
        name,
        context=context,
        kind=kind,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:  # a cancelled read is one that took too long
            current.set_attribute("error.type", type(error).__name__)
            current.set_status(StatusCode.ERROR)
            raise
