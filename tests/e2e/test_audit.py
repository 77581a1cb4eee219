"""Audits of a running worker: clean under traffic, and what a damage looks like from outside."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from store.settings import Settings
from tests.support.waiting import eventually_async
from tests.support.worker_fixture import WorkerFixture, make_events, open_worker_fixture


async def last_audit(fixture: WorkerFixture) -> tuple[str, int]:
    note = (await fixture.counters.reports.audits()).get("acme")
    assert note is not None
    return note.result, note.cells


@pytest.mark.long
def test_a_worker_audits_while_it_counts_and_damage_is_found_and_healed(
    settings: Settings,
) -> None:
    async def go() -> None:
        async with open_worker_fixture(settings, audit_every_s=0.5) as fixture:
            sent = 0
            for _ in range(10):
                await fixture.send(make_events(200))
                sent += 200
                document = json.loads(fixture.command("audit", "--json"))
                for tenant in document["tenants"]:
                    assert (tenant["drift"], tenant["notes"]) == (False, [])
            await fixture.wait_counted(sent)
            await fixture.wait_stored(sent)

            async def is_clean() -> bool:
                return await last_audit(fixture) == ("clean", 0)

            await eventually_async(is_clean, message="a clean audit")
            record = f"{settings.redis_prefix}:{{acme/0}}:1:a:off_1"
            windows = msgspec.msgpack.decode(await fixture.client.hget(record, "s"))
            windows[2] += 3  # weekly, of the first outcome type
            await fixture.client.hset(record, "s", msgspec.msgpack.encode(windows))

            async def is_drift() -> bool:
                return await last_audit(fixture) == ("drift", 1)

            await eventually_async(is_drift, message="the drift is found")
            assert "counters differ from history" in fixture.worker.log_tail(50)
            await fixture.send(make_events(200))
            text = fixture.command("audit", "--repair")
            assert "1 groups corrected; compared again: all equal" in text
            await fixture.wait_counted(sent + 200)
            await eventually_async(is_clean, message="a clean audit")

    asyncio.run(go())
