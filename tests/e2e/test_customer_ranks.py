"""A question about customers makes a worker build the rank that answers the next ones."""

from __future__ import annotations

import asyncio

import httpx

from store.settings import Settings
from tests.support.waiting import eventually_async
from tests.support.worker_and_api import PATH, open_api
from tests.support.worker_fixture import make_events, open_worker_fixture


def test_history_answers_the_first_question_and_then_the_counters_the_same(
    settings: Settings,
) -> None:
    """Customers that come later are in the rank."""

    async def go() -> None:
        async with open_worker_fixture(settings) as fixture, open_api(settings) as api:

            async def ask() -> httpx.Response:
                response = await api.get(
                    PATH,
                    params={"groupBy": "customer", "days": 7, "limit": 500},
                    headers={"X-Tenant-Id": "acme"},
                )
                assert response.status_code == 200, response.text
                return response

            async def from_counters() -> httpx.Response | None:
                response = await ask()
                source = response.headers["X-Summary-Source"]
                return response if source == "materialized" else None

            await fixture.send(make_events(1_500, customers=700))
            await fixture.wait_counted(1_500)
            await fixture.wait_stored(1_500)
            first = await ask()
            assert first.headers["X-Summary-Source"] == "history"
            assert first.json()["total"] == 700
            ranked = await eventually_async(from_counters, message="the rank is built")
            assert ranked is not None
            assert ranked.content == first.content
            await fixture.send(make_events(800, customers=800))
            await fixture.wait_counted(2_300)
            more = await from_counters()
            assert more is not None
            assert more.json()["total"] == 800

    asyncio.run(go())
