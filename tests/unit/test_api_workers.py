"""`GET /api/v1/workers`: what is said of the workers, from their reports."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from api.app import create_app
from api.workers import PATH, Reports, describe, reports_from
from store.counters import PartitionProgress, Visible
from store.records import Catalog, Page, Question, StoreUnavailable
from store.redis.reports import PROGRESS_OLD_MS
from store.settings import Settings

NOW_MS = 1_795_478_400_000
TOPIC = "topic-1"


def report(
    partition: int,
    *,
    counted: int = 100,
    end: int | None = 100,
    age_ms: int = 400,
    visible: Visible | None = None,
    rate: float | None = 5.0,
) -> PartitionProgress:
    return PartitionProgress(TOPIC, partition, counted, end, NOW_MS - age_ms, visible, rate)


def described(progress: Sequence[PartitionProgress], owners: Mapping[int, str]) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(describe(progress, owners, NOW_MS))
    return found


def test_two_workers_that_count() -> None:
    progress = [
        report(0, counted=90, visible=Visible(10, 50, 70)),
        report(1, age_ms=900, rate=2.5),
        report(2, visible=Visible(20, 40, 60)),
    ]
    assert described(progress, {0: "b:2", 1: "b:2", 2: "a:1"}) == {
        "at": "2026-11-24T00:00:00.000Z",
        "offsetsPerS": 12.5,
        "lag": 10,
        "visible": {"p50Ms": 20, "p99Ms": 50, "maxMs": 70},
        "workers": [
            {
                "worker": "a:1", "state": "reporting", "partitions": [2], "offsetsPerS": 5.0,
                "lag": 0, "reportedAt": "2026-11-23T23:59:59.600Z",
            },
            {
                "worker": "b:2", "state": "reporting", "partitions": [0, 1], "offsetsPerS": 7.5,
                "lag": 10, "reportedAt": "2026-11-23T23:59:59.100Z",
            },
        ],
    }  # fmt: skip


def test_a_silent_worker_says_nothing_about_the_present() -> None:
    found = described([report(0), report(1, age_ms=PROGRESS_OLD_MS + 1)], {0: "a:1", 1: "a:1"})
    assert (found["lag"], found["offsetsPerS"], found["visible"]) == (None, 5.0, None)
    silent, reporting = found["workers"]
    assert (reporting["state"], reporting["partitions"]) == ("reporting", [0])
    assert (silent["state"], silent["partitions"]) == ("silent", [1])
    assert (silent["offsetsPerS"], silent["lag"]) == (None, None)


def test_no_worker_ever() -> None:
    assert described([], {}) == {
        "at": "2026-11-24T00:00:00.000Z", "offsetsPerS": None, "lag": None, "visible": None,
        "workers": [],
    }  # fmt: skip


reports = st.builds(
    report,
    st.integers(),
    counted=st.integers(0, 10_000),
    end=st.none() | st.integers(0, 10_000),
    age_ms=st.integers(-1_000, 3 * PROGRESS_OLD_MS),
    visible=st.none() | st.builds(Visible, *[st.integers(0, 9_999)] * 3),
    rate=st.none() | st.integers(0, 9_999).map(lambda tenths: tenths / 10),
)


@given(
    st.lists(reports, max_size=8, unique_by=lambda p: p.partition),
    st.lists(st.sampled_from(["", "a:1", "b:2"]), min_size=8, max_size=8),
)
def test_each_partition_is_of_one_worker_and_the_sums_are_those_of_the_partitions(
    progress: list[PartitionProgress], names: list[str]
) -> None:
    owners = {p.partition: names[i] for i, p in enumerate(progress) if names[i]}
    found = described(progress, owners)
    listed = [
        (partition, worker["worker"], worker["state"])
        for worker in found["workers"]
        for partition in worker["partitions"]
    ]
    recent = [p for p in progress if NOW_MS - p.at_ms <= PROGRESS_OLD_MS]
    assert sorted(listed) == sorted(
        (p.partition, owners.get(p.partition, ""), "reporting" if p in recent else "silent")
        for p in progress
    )
    rates = [p.offsets_per_s for p in recent if p.offsets_per_s is not None]
    assert found["offsetsPerS"] == (round(sum(rates), 1) if rates else None)
    known = progress and recent == progress and all(p.end_offset is not None for p in progress)
    lags = [max(0, (p.end_offset or 0) - p.next_offset) for p in progress]
    assert found["lag"] == (sum(lags) if known else None)
    assert (found["visible"] is None) == (not any(p.visible for p in recent))


class _Unused:
    """Stores that must not be asked."""

    async def read(self, question: Question) -> Page:
        raise AssertionError(question)

    async def get(self, tenant: str, *, at_least_version: int = 0) -> Catalog:
        raise AssertionError(tenant)

    async def fresh(self, tenant: str) -> Catalog:
        raise AssertionError(tenant)


def client_of(worker_reports: Reports) -> TestClient:
    unused = _Unused()
    app = create_app(
        Settings(auth_mode="open"),
        counters=unused,  # type: ignore[arg-type]
        history=unused,  # type: ignore[arg-type]
        catalogs=unused,
        now_ms=lambda: NOW_MS,
        worker_reports=worker_reports,
    )
    return TestClient(app, base_url="http://127.0.0.1")


def test_the_answer_is_not_kept_and_has_no_parameters() -> None:
    async def read() -> tuple[list[PartitionProgress], dict[int, str]]:
        return [report(3)], {3: "a:1"}

    client = client_of(read)
    response = client.get(PATH)
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.json()["workers"][0]["partitions"] == [3]
    refused = client.get(f"{PATH}?x=1")
    assert refused.status_code == 400
    assert "no query parameters" in refused.json()["error"]["message"]


def test_without_redis_it_is_a_503_that_names_no_address() -> None:
    async def read() -> tuple[list[PartitionProgress], dict[int, str]]:
        raise StoreUnavailable("Redis: connection to 10.0.0.7 failed")

    response = client_of(read).get(PATH)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "2"
    assert "10.0.0.7" not in response.text


async def read_once(
    reports: Reports,
) -> tuple[Sequence[PartitionProgress], Mapping[int, str]]:
    return await reports()


def test_only_the_topic_that_is_counted_now_is_shown() -> None:
    class Both:
        """Reports and claims, as Redis has them after the topic was created again."""

        async def progress(self) -> list[PartitionProgress]:
            older = report(0, age_ms=90_000)._replace(topic_id="topic-0")
            return [older, older._replace(partition=1), report(0)]

        async def owners(self, topic_id: str) -> dict[int, str]:
            return {"topic-0": {0: "old:1", 1: "old:1"}, TOPIC: {0: "a:1"}}[topic_id]

    both: Any = Both()
    progress, owners = asyncio.run(read_once(reports_from(both, both)))
    assert described(progress, owners)["workers"] == [
        {
            "worker": "a:1", "state": "reporting", "partitions": [0], "offsetsPerS": 5.0,
            "lag": 0, "reportedAt": "2026-11-23T23:59:59.600Z",
        }
    ]  # fmt: skip
