"""If-None-Match: 304 while the body is unchanged, and a full response after a change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from store.catalog_document import CatalogDocument, OfferItem
from store.settings import Settings
from store.windows import DAY_MS
from tests.support.events import NOW_MS, make_event
from tests.support.reader_pair import ReaderPair, Tenant, open_reader_pair
from tests.support.waiting import eventually_async

Body = Callable[[ReaderPair, Tenant, httpx.AsyncClient], Awaitable[None]]
Check = Callable[[str, Body], None]
READERS = ("counted", "historic")


@pytest.fixture
def check(redis_url: str, database_url: str) -> Check:
    """Return a function that runs a test body on one of the two readers.

    The tenant has two actions on its page.
    """
    stores = Settings(
        auth_mode="open", redis_url=redis_url, database_url=database_url, catalog_refresh_s=0.05
    )

    def run(reader: str, body: Body) -> None:
        async def go() -> None:
            async with open_reader_pair(stores) as pair:
                tenant = await pair.tenant("acme", "UTC")
                await tenant.commit([make_event(offer=o) for o in ("gold", "gold", "gold", "blue")])
                await body(pair, tenant, getattr(pair, reader))

        asyncio.run(go())

    return run


class Client:
    """Client that repeats one question, with the ETag of its last full response."""

    def __init__(self, tenant: Tenant, reader: httpx.AsyncClient, query: str) -> None:
        self._tenant, self._reader, self._query = tenant, reader, query
        self.response: httpx.Response | None = None

    async def ask(self) -> bool:
        """Send the question, and return whether the response was full and not a 304."""
        known = None if self.response is None else self.response.headers["etag"]
        response = await self._tenant.ask(self._query, of=self._reader, etag=known)
        if response.status_code == 304:
            assert response.content == b""
            assert response.headers["etag"] == known
            again = await self._tenant.ask(self._query, of=self._reader)
            assert self.response is not None
            assert again.content == self.response.content
            return False
        assert response.status_code == 200, response.text
        assert response.headers["etag"] != known
        self.response = response
        return True


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "elsewhere",
    [
        pytest.param({"occurred_ms": NOW_MS - 10 * DAY_MS}, id="a day that the window lacks"),
        pytest.param({"occurred_ms": NOW_MS - DAY_MS, "offer": "new"}, id="yesterday"),
        pytest.param({"offer": "other", "channel": "ch_1"}, id="another channel's action"),
    ],
)
def test_it_holds_while_events_change_other_answers(
    check: Check, reader: str, elsewhere: dict[str, Any]
) -> None:
    async def body(pair: ReaderPair, tenant: Tenant, of: httpx.AsyncClient) -> None:
        # The first row of the actions of today; two events of other groups do not change it.
        query = "days=1&limit=1" if "channel" not in elsewhere else "groupBy=treatment&days=1"
        client = Client(tenant, of, query)
        assert await client.ask()
        assert not await client.ask()
        event = make_event(creative=None, **elsewhere)
        await tenant.commit([event])
        assert not await client.ask()
        everything = Client(tenant, of, "days=365")
        assert await everything.ask()
        assert await tenant.ask("days=365", of=of, etag='"another"')

    check(reader, body)


@pytest.mark.parametrize("reader", READERS)
def test_it_ends_with_an_event_that_the_body_shows(check: Check, reader: str) -> None:
    async def body(pair: ReaderPair, tenant: Tenant, of: httpx.AsyncClient) -> None:
        queries = ("days=1", "days=7", "days=30", "days=365", "days=3&window=exact")
        clients = [Client(tenant, of, query) for query in queries]
        assert [await client.ask() for client in clients] == [True] * 5
        await tenant.commit([make_event(offer="blue")])
        assert [await client.ask() for client in clients] == [True] * 5
        assert [await client.ask() for client in clients] == [False] * 5

    check(reader, body)


@pytest.mark.parametrize("reader", READERS)
def test_a_page_changes_with_its_rows_and_its_total_only(check: Check, reader: str) -> None:
    async def body(pair: ReaderPair, tenant: Tenant, of: httpx.AsyncClient) -> None:
        first, second = (Client(tenant, of, f"days=1&limit=1&offset={n}") for n in (0, 1))
        assert await first.ask()
        assert await second.ask()
        await tenant.commit([make_event(offer="blue")])  # shown on the second page
        assert not await first.ask()
        assert await second.ask()
        await tenant.commit([make_event(offer="new")])  # on a third page; both pages show the total
        assert await first.ask()
        assert await second.ask()

    check(reader, body)


@pytest.mark.parametrize("reader", READERS)
def test_midnight_ends_it_where_the_window_loses_something(check: Check, reader: str) -> None:
    async def body(pair: ReaderPair, tenant: Tenant, of: httpx.AsyncClient) -> None:
        daily, weekly = Client(tenant, of, "days=1"), Client(tenant, of, "days=7")
        assert await daily.ask()
        assert await weekly.ask()
        pair.now_ms += DAY_MS
        await tenant.roll()
        assert await daily.ask()
        assert not await weekly.ask()
        pair.now_ms += 6 * DAY_MS
        await tenant.roll()
        assert not await daily.ask()
        assert await weekly.ask()

    check(reader, body)


@pytest.mark.parametrize("reader", READERS)
def test_a_name_that_is_shown_ends_it_and_another_does_not(check: Check, reader: str) -> None:
    async def body(pair: ReaderPair, tenant: Tenant, of: httpx.AsyncClient) -> None:
        client, customers = Client(tenant, of, "days=1"), Client(tenant, of, "groupBy=customer")
        assert await client.ask()
        assert await customers.ask()
        await tenant.import_catalog(
            CatalogDocument(tenant="acme", offers=[OfferItem(id="unseen", name="Unseen")])
        )
        assert not await client.ask()
        await tenant.import_catalog(
            CatalogDocument(tenant="acme", offers=[OfferItem(id="gold", name="Gold card")])
        )
        # The counters report the new catalog version; the other reader reloads later.
        if reader == "counted":
            assert await client.ask()
        else:
            await eventually_async(client.ask, message="the new name is shown")
        assert client.response is not None
        assert client.response.json()["summary"][0]["name"] == "Gold card"
        assert not await client.ask()
        assert not await customers.ask()

    check(reader, body)


def test_it_holds_over_a_fallback(check: Check) -> None:
    """The ETag is that of the body, and history gives the same body."""

    async def body(pair: ReaderPair, tenant: Tenant, of: httpx.AsyncClient) -> None:
        counted = await tenant.ask("days=30", of=pair.counted)
        response = await tenant.ask("days=30", of=pair.historic, etag=counted.headers["etag"])
        assert response.status_code == 304
        assert response.headers["x-summary-source"] == "history"

    check("counted", body)
