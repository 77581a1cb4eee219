"""Traces, as a collector receives them from a worker process and from API processes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from api.group_routes import GROUP_PATH, TREND_PATH
from cli.embedded.server import free_port
from store.settings import Settings
from tests.support.events import make_event
from tests.support.program import Api, Program
from tests.support.trace_collector import CollectedSpan, TraceCollector, open_trace_collector
from tests.support.waiting import eventually
from tests.support.worker_fixture import make_events, now_ms, open_worker_fixture

PATH = "/api/v1/interaction-summary"
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[TraceCollector]:
    with open_trace_collector() as opened:
        yield opened


@pytest.fixture
def silent_collector() -> Iterator[TraceCollector]:
    with open_trace_collector(answers=False) as opened:
        yield opened


@pytest.mark.anyio
async def test_a_worker_sends_a_span_per_commit_batch_and_per_history_transaction(
    settings: Settings, collector: TraceCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their numbers of events add up to the events sent. A stop sends what waits."""
    for name, value in collector.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "counting")
    other = [make_event(tenant="other", occurred_ms=now_ms()) for _ in range(100)]
    async with open_worker_fixture(settings, traces_enabled=True) as fixture:
        await fixture.send([*make_events(200), *other])
        await fixture.wait_counted(200)
        await fixture.wait_stored(200)
        assert fixture.worker.stop() == 0, fixture.worker.log_tail()

    commits = collector.named("commit batch")
    assert _sum(commits, "events") == _sum(commits, "messages") == 300
    assert _sum(commits, "rejected") == 0
    assert {span.attributes["interaction_summary.tenants"] for span in commits} <= {1, 2}
    writes = collector.named("history transaction")
    assert _sum(writes, "events") == _sum(writes, "stored") == 300
    # Few: a batch has the events of one fetch of one partition, and all were sent at once.
    assert len(commits) + len(writes) < 100
    assert len(collector.spans) == len(commits) + len(writes)
    for span in collector.spans:
        assert span.attributes["messaging.destination.name"] == settings.interactions_topic
        assert span.attributes["messaging.destination.partition.id"] in {"0", "1", "2", "3"}
        assert not span.failed
        assert span.resource["service.name"] == "counting"
    assert b"C-1" not in b"".join(collector.bodies)


def _sum(spans: list[CollectedSpan], name: str) -> int:
    key = "messaging.batch.message_count" if name == "messages" else f"interaction_summary.{name}"
    return sum(span.attributes[key] for span in spans)


def test_a_request_has_a_span_with_children_for_its_stores_and_nothing_of_its_secrets(
    program: Program, collector: TraceCollector
) -> None:
    program.env |= collector.variables(schedule_delay_ms=50)
    api = program.api()  # asks /readyz until it is ready
    secrets = ["krn_secret", "Zebra", "cookie_value", "no-such-tenant-name"]
    answer = api.client.get(
        PATH,
        params={"groupBy": "customer", "days": 29},
        headers={
            "X-API-Key": secrets[0],
            "Authorization": f"Bearer {secrets[0]}",
            "Cookie": secrets[2],
            "X-Tenant-Id": secrets[3],
            "X-Request-Id": "request-1",
            "traceparent": f"00-{TRACE}-{CALLER}-01",
        },
    )
    assert answer.status_code == 200, answer.text
    assert api.client.get(PATH, params={"groupBy": secrets[1]}).status_code == 400
    assert api.client.get(f"/{secrets[1]}").status_code == 404
    for polled in ("/healthz", "/readyz", "/metrics"):
        assert api.client.get(polled).status_code == 200
    assert api.process.terminate() == 0

    request, refused = collector.named(f"GET {PATH}")
    assert refused.attributes["http.response.status_code"] == 400
    assert (request.trace_id, request.parent_id) == (TRACE, CALLER)
    assert request.attributes == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "http.route": PATH,
        "http.response.status_code": 200,
        "interaction_summary.request_id": "request-1",
        "interaction_summary.source": "history",
    }
    assert request.resource["service.name"] == "interaction-summary-api"
    (unknown,) = collector.named("GET")
    assert unknown.attributes["http.response.status_code"] == 404
    children = [span for span in collector.spans if span not in (request, refused, unknown)]
    assert {span.name: span.attributes["db.system.name"] for span in children} == {
        "load catalog": "postgresql",
        "read counters": "redis",
        "read history": "postgresql",
    }
    assert len(children) == 3
    assert {(span.trace_id, span.parent_id) for span in children} == {(TRACE, request.span_id)}
    sent = b"".join(collector.bodies)
    assert [text for text in [*secrets, "days"] if text.encode() in sent] == []


@pytest.mark.long
def test_reads_of_groups_and_trends_have_spans_without_the_id(
    program: Program, collector: TraceCollector
) -> None:
    program.env |= collector.variables(schedule_delay_ms=50)
    api = program.api()
    assert api.client.get(f"{PATH}/customer/Zebra").status_code == 404
    assert api.client.get(f"{TREND_PATH}?groupBy=customer&id=Zebra").status_code == 404
    assert api.process.terminate() == 0
    for route in (GROUP_PATH, TREND_PATH):
        (request,) = collector.named(f"GET {route}")
        assert request.attributes["http.route"] == route
        assert request.attributes["interaction_summary.source"] == "history"
        names = {span.name for span in collector.spans if span.parent_id == request.span_id}
        assert {"read counters", "read history"} <= names
    assert b"Zebra" not in b"".join(collector.bodies)


@pytest.mark.long
def test_each_server_process_sends_its_own_spans(
    program: Program, collector: TraceCollector
) -> None:
    program.env |= collector.variables(schedule_delay_ms=50)
    port = free_port()
    process = program.start("api", "api", "--port", str(port), "--workers", "2")
    answered = 0

    def two_processes_sent_spans() -> bool:
        nonlocal answered
        program.check_alive(process)
        try:
            # A new connection each time: the kernel gives it to one of the processes. The first one
            # waits in the socket, which is bound before they start.
            answer = httpx.get(f"http://127.0.0.1:{port}{PATH}", timeout=60)
        except httpx.ConnectError:
            return False
        answered += answer.status_code == 200
        return len({span.resource["process.pid"] for span in collector.spans}) == 2

    eventually(two_processes_sent_spans, message="spans of two processes")
    assert process.terminate() == 0
    assert len(collector.named(f"GET {PATH}")) == answered


@pytest.mark.long
def test_a_stop_does_not_wait_for_a_collector_that_does_not_answer(
    program: Program, silent_collector: TraceCollector
) -> None:
    """`terminate` allows 10 s, the limit of every stop."""
    program.env |= silent_collector.variables()
    api = program.api()
    assert api.client.get(PATH).status_code == 200
    worker = program.worker()
    program.run("load", "--events", "100")
    program.wait_for(counted=100, stored=100, alive=[worker])
    assert worker.terminate() == 0
    assert silent_collector.named("history transaction") != []
    assert api.process.terminate() == 0
    assert silent_collector.named(f"GET {PATH}") != []


def test_when_off_no_other_variable_makes_the_api_send_anything(
    program: Program, collector: TraceCollector
) -> None:
    """FastAPI has spans of its own, with the query of the URL, and sends them when it stops."""
    program.env |= collector.variables(schedule_delay_ms=50)
    program.env |= {"TRACES_ENABLED": "false", "FASTAPI_OTEL_AUTO_CONFIGURE": "true"}
    api = program.api()
    assert api.client.get(PATH).status_code == 200
    assert api.process.terminate() == 0
    assert not collector.asked.is_set()


def test_without_a_collector_the_api_answers_and_the_log_says_so(program: Program) -> None:
    with open_trace_collector() as gone:
        program.env |= gone.variables(schedule_delay_ms=50)
    api = program.api()
    assert api.client.get(PATH).status_code == 200
    eventually(lambda: _complains(api), message="a line that says that spans are not sent")
    assert api.client.get(PATH).status_code == 200
    assert api.process.terminate() == 0


def _complains(api: Api) -> bool:
    lines = [json.loads(line) for line in api.process.log().splitlines()]
    return any("exporting spans batch" in line["event"] for line in lines)
