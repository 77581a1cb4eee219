"""Traces: off by default, refused where they cannot be sent, and what a span contains."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from store.records import StoreUnavailable
from store.tracing import Traces, TracesRefused, check_traces, span
from tests.support.command_line import NOWHERE, ROOT, failed

_OFF = """
import asyncio, json, sys
from api.app import build
from store.settings import Settings
from streams.worker import Worker

async def main():
    settings = Settings(auth_mode="open")
    app = build(settings)
    worker = Worker(settings)
    worker.build()
    return [
        [type(worker.pipeline).__name__, type(worker.stores.writer).__name__],
        [each.cls.__name__ for each in app.user_middleware],
        list(sys.modules),
    ]

print(json.dumps(asyncio.run(main())))
"""
#: As where the extra is not installed: importing the SDK fails.
_WITHOUT_EXTRA = """
import sys
sys.modules["opentelemetry.sdk.trace"] = None
from cli.main import main
sys.argv = ["interaction-summary", {command!r}]
main()
"""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


def test_when_off_nothing_of_the_extra_is_imported_and_nothing_is_wrapped() -> None:
    """FastAPI and redis-py import other parts themselves: the API, and the SDK of metrics."""
    done = _python(_OFF)
    assert done.returncode == 0, done.stderr
    classes, middleware, modules = json.loads(done.stdout)
    assert classes == ["Pipeline", "HistoryWriter"]
    assert middleware == ["RequestMiddleware"]
    ours = ("store.tracing", "api.tracing", "streams.tracing")
    theirs = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "opentelemetry.proto")
    assert "store.settings" in modules
    assert [name for name in modules if name.startswith(ours + theirs)] == []


@pytest.mark.parametrize("command", ["api", "worker"])
def test_without_the_extra_a_start_is_refused_in_one_line(command: str) -> None:
    done = _python(_WITHOUT_EXTRA.format(command=command), TRACES_ENABLED="true", AUTH_MODE="open")
    assert done.returncode == 1
    assert done.stderr == (
        "error: TRACES_ENABLED needs a package that is not installed (opentelemetry.sdk.trace): "
        "pip install 'interaction-summary[otel]'\n"
    )


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **NOWHERE, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("command", ["api", "worker"])
def test_a_protocol_that_is_not_supported_is_refused(command: str) -> None:
    line = failed(
        command, TRACES_ENABLED="true", AUTH_MODE="open", OTEL_EXPORTER_OTLP_PROTOCOL="grpc"
    )
    assert line == (
        "error: OTEL_EXPORTER_OTLP_PROTOCOL='grpc': only http/protobuf is supported; unset it"
    )


def test_the_ways_of_export_that_there_are_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    check_traces()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    with pytest.raises(TracesRefused, match="only otlp is supported"):
        check_traces()


@pytest.mark.parametrize(
    ("variable", "value", "service"),
    [
        ("LANG", "C", "interaction-summary-api"),
        ("OTEL_SERVICE_NAME", "mine", "mine"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=theirs,team=a", "theirs"),
    ],
)
def test_the_service_has_the_name_that_the_standard_variables_give(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, service: str
) -> None:
    monkeypatch.setenv(variable, value)
    traces = Traces("interaction-summary-api")
    traces.stop()
    attributes = traces.provider.resource.attributes
    assert attributes["service.name"] == service
    assert attributes["process.pid"] == os.getpid()
    assert attributes.get("team") == ("a" if service == "theirs" else None)


@pytest.mark.parametrize(("sampler", "is_recorded"), [("always_off", False), ("always_on", True)])
def test_the_sampler_is_the_one_of_the_standard_variable(
    monkeypatch: pytest.MonkeyPatch, sampler: str, is_recorded: bool
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    traces = Traces("interaction-summary-api")
    assert traces.tracer.start_span("any").is_recording() is is_recorded
    traces.stop()


def test_of_an_exception_a_span_has_only_the_type() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with (
        pytest.raises(StoreUnavailable),
        span(provider.get_tracer("test"), "read", SpanKind.CLIENT, {"db.system.name": "redis"}),
    ):
        raise StoreUnavailable("Redis: the value 4711")
    (ended,) = exporter.get_finished_spans()
    assert dict(ended.attributes or {}) == {
        "db.system.name": "redis",
        "error.type": "StoreUnavailable",
    }
    assert not ended.status.is_ok
    assert "4711" not in ended.to_json()
