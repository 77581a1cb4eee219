"""An API as a process, on the stores of a test, with a tenant whose counts the test writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx

from store.clock import system_clock_ms
from store.records import Event
from store.settings import Settings
from store.windows import DAY_MS
from tests.support.api_process import serving
from tests.support.events import make_event
from tests.support.reader_pair import ReaderPair, Tenant, open_reader_pair

TENANT = "acme"
PATH = "/api/v1/interaction-summary"
#: Events of one commit.
BATCH = 200


def zone_of_noon(now_ms: int) -> str:
    """Return a time zone in which it is about noon, so that no test runs over a midnight."""
    ahead = 12 - datetime.fromtimestamp(now_ms / 1_000, UTC).hour
    return f"Etc/GMT{-ahead:+}" if ahead else "Etc/GMT"


def events_of(
    counts: Mapping[str, Mapping[str, int]], now_ms: int, *, days_ago: int = 0
) -> list[Event]:
    """Return events: offer -> outcome type -> number, all of one day."""
    return [
        make_event(
            tenant=TENANT,
            customer=f"C-{number % 7}",
            offer=offer,
            creative=f"cr_{offer}"[:128],
            channel="ch_web",
            outcome=outcome,
            occurred_ms=now_ms - days_ago * DAY_MS,
        )
        for offer, outcomes in counts.items()
        for outcome, n in outcomes.items()
        for number in range(n)
    ]


class PageScene:
    """The tenant `acme`, and an API with its address."""

    def __init__(
        self, settings: Settings, pair: ReaderPair, tenant: Tenant, api: httpx.Client
    ) -> None:
        self.settings, self.pair, self.tenant, self.api = settings, pair, tenant, api
        self.now_ms = pair.now_ms
        self.zone = tenant.calendar.zone
        self.url = f"{str(api.base_url).rstrip('/')}/?tenant={TENANT}"

    async def commit(self, counts: Mapping[str, Mapping[str, int]], *, days_ago: int = 0) -> None:
        """Count and store events; see `events_of`."""
        await self.commit_events(events_of(counts, self.now_ms, days_ago=days_ago))

    async def commit_events(self, events: Sequence[Event]) -> None:
        for start in range(0, len(events), BATCH):
            await self.tenant.commit(events[start : start + BATCH])

    def import_names(self, names: Mapping[str, str], **headers: str) -> None:
        """Import names of offers through the API."""
        offers = [{"id": id_, "name": name} for id_, name in names.items()]
        response = self.api.post(
            "/api/v1/catalog", json={"offers": offers}, headers={"X-Tenant-Id": TENANT, **headers}
        )
        assert response.status_code == 200, response.text


@asynccontextmanager
async def open_page_scene(
    settings: Settings, folder: Path, **environment: str
) -> AsyncIterator[PageScene]:
    """Start the API; `environment` has further settings of it."""
    values = settings.model_copy(update={"read_budget_ms": 5_000}).model_dump()
    env = {name.upper(): str(value) for name, value in values.items()} | environment
    async with open_reader_pair(settings) as pair:
        pair.now_ms = system_clock_ms()
        tenant = await pair.tenant(TENANT, zone_of_noon(pair.now_ms))
        with serving(folder / "api.log", env) as (_, api):
            yield PageScene(settings, pair, tenant, api)
