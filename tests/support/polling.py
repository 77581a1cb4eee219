"""Readers that poll the API while something else goes on, and check every answer.

While events come in, each once and none rejected, this is exact: a count of `alltime` never goes
down from an answer of the counters to a later one, of the same grouping or another that every event
has; and it is never below the offsets that a worker reported before the question.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, NamedTuple

import httpx

from tests.support.answers import DAYS

#: Rows are compared with the sum of their types; events have no other types than these.
TYPES = ("impression", "click", "dismiss", "accept", "convert")
#: Groupings that every event has.
GROUPINGS = ("action", "customer")
LIMIT = 500


class Latency(NamedTuple):
    """Response times of one span of time, in ms."""

    requests: int
    p50_ms: float
    p99_ms: float


class Pollers:
    """Threads that poll the API; used by `with pollers.running()`, which raises what they found."""

    def __init__(
        self,
        base_url: str,
        tenant: str,
        counted: Callable[[], int],
        *,
        threads: int = 3,
        pause_s: float = 0.0,
    ) -> None:
        """Ask `base_url` from `threads` threads; `counted`: what the workers say they counted."""
        self._base_url = base_url
        self._tenant = tenant
        self._counted = counted
        self._pause_s = pause_s
        self._threads = [
            threading.Thread(target=self._run, args=(self._poll,), daemon=True)
            for _ in range(threads)
        ]
        self._threads.append(threading.Thread(target=self._run, args=(self._watch,), daemon=True))
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._errors: list[BaseException] = []
        self._times: list[tuple[float, float]] = []  # end (monotonic) and duration, in s
        self._floor = 0  # events that every later answer of the counters must have
        self._group_floors: dict[tuple[str, str], int] = {}
        self.sources: collections.Counter[str] = collections.Counter()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Poll inside the block; raise the first error of a thread at its end."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in self._threads:
                thread.join(30)
        if self._errors:
            raise self._errors[0]

    def check(self) -> None:
        """Raise the first error that a thread has found so far."""
        if self._errors:
            raise self._errors[0]

    def latency(self, began_s: float, ended_s: float) -> Latency:
        """Return the response times of the answers that came in that time (monotonic)."""
        found = sorted(took * 1e3 for at, took in self._times if began_s <= at < ended_s)
        return Latency(len(found), found[len(found) // 2], found[len(found) * 99 // 100])

    def _run(self, loop: Callable[[httpx.Client], None]) -> None:
        try:
            with httpx.Client(base_url=self._base_url, timeout=30) as client:
                while not self._stopped.is_set():
                    loop(client)
        except BaseException as error:
            self._errors.append(error)

    def _watch(self, _: httpx.Client) -> None:
        counted = self._counted()
        with self._lock:
            self._floor = max(self._floor, counted)
        self._stopped.wait(0.3)

    def _poll(self, client: httpx.Client) -> None:
        for grouping in GROUPINGS:
            for period in ("alltime", "weekly"):
                self._ask(client, grouping, period)
                self._stopped.wait(self._pause_s)

    def _ask(self, client: httpx.Client, grouping: str, period: str) -> None:
        with self._lock:
            floor, group_floors = self._floor, dict(self._group_floors)
        began_s = time.monotonic()
        answer = client.get(
            "/api/v1/interaction-summary",
            params={"groupBy": grouping, "days": DAYS[period], "limit": LIMIT},
            headers={"X-Tenant-Id": self._tenant},
        )
        ended_s = time.monotonic()
        assert answer.status_code == 200, answer.text
        sums = _checked(answer, grouping, period)
        source, total = answer.headers["X-Summary-Source"], sum(sums.values())
        with self._lock:
            self._times.append((ended_s, ended_s - began_s))
            self.sources[source] += 1
        if source != "materialized" or period != "alltime":
            return
        assert total >= floor, f"{total} events by {grouping}, {floor} were counted before"
        for id_, n in sums.items():
            before = group_floors.get((grouping, id_), 0)
            assert n >= before, f"{grouping} {id_} has {n} events, it had {before}"
        with self._lock:
            self._floor = max(self._floor, total)
            for id_, n in sums.items():
                known = self._group_floors.get((grouping, id_), 0)
                self._group_floors[grouping, id_] = max(known, n)


def _checked(answer: httpx.Response, grouping: str, period: str) -> dict[str, int]:
    """Return id -> total, after a check that the answer agrees with itself."""
    body: dict[str, Any] = answer.json()
    rows, headers = body["summary"], answer.headers
    assert headers["ETag"] == f'"{blake2b(answer.content, digest_size=16).hexdigest()}"'
    assert headers["X-Summary-Source"] in ("materialized", "history")
    assert headers["X-Summary-Period"] == period
    assert ("X-Summary-Lag" not in headers) or headers["X-Summary-Source"] == "materialized"
    assert body["total"] == len(rows) <= LIMIT, "all groups fit on a page"
    id_ = "customerId" if grouping == "customer" else "id"
    for row in rows:
        assert row["total"] == sum(row[key] for key in TYPES) > 0, row
        if grouping == "customer":
            assert 0 < row["uniqueActions"] <= row["total"], row
    order = [(-row["total"], row[id_]) for row in rows]
    assert order == sorted(order)
    found = {row[id_]: row["total"] for row in rows}
    assert len(found) == len(rows), "a group is there twice"
    return found
