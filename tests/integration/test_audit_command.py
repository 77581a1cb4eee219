"""The command `audit`, and the audits that workers make."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from store.audit import AuditNote
from store.clock import system_clock_ms
from store.records import Event
from store.settings import Settings
from store.windows import DAY_MS, Calendar
from streams.audit.auditor import TenantAudit
from streams.audit.periodic import PeriodicAudit, make_periodic_audit
from tests.support.command_line import run as run_command
from tests.support.contract import LOG, Writer
from tests.support.events import NOW_MS, make_event, sourced
from tests.support.services.base import Services
from tests.support.stores import Stores
from tests.support.waiting import eventually_async

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(redis_url: str, database_url: str) -> Command:
    """Return a function that runs `audit` on the servers of this test."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_command("audit", *arguments, REDIS_URL=redis_url, DATABASE_URL=database_url)

    return run


async def fill(
    stores: Stores, tenant: str, n: int, now_ms: int, *, partition: int = 0
) -> list[Event]:
    """Count and store `n` events of a new tenant, from a partition that no other tenant has."""
    batch = [
        make_event(
            tenant=tenant,
            offer=f"off_{i % 3}",
            creative=None,
            outcome=("impression", "click")[i % 2],
            occurred_ms=now_ms - (i % 40) * DAY_MS,
        )
        for i in range(n)
    ]
    generation = await stores.counters.create(
        tenant, day=Calendar("UTC").day_of(now_ms), timezone="UTC", complete=True, watermarks=[]
    )
    await Writer(stores.counters, generation).commit(batch, partition=partition)
    await stores.history.write(
        topic="t",
        topic_id=LOG,
        partition=partition,
        expected_offset=None,
        next_offset=n,
        events=sourced(*batch),
    )
    return batch


def with_stores(redis_url: str, database_url: str, body: Callable[[Stores], Any]) -> None:
    async def go() -> None:
        async with Stores(Settings(redis_url=redis_url, database_url=database_url)) as stores:
            await body(stores)

    asyncio.run(go())


def test_exit_codes_lines_and_document(command: Command, redis_url: str, database_url: str) -> None:
    done = command()
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "there are no tenants; nothing to compare\n"

    async def two_tenants(stores: Stores) -> None:
        for partition, tenant in enumerate(("acme", "other")):
            await fill(stores, tenant, 120, system_clock_ms(), partition=partition)

    with_stores(redis_url, database_url, two_tenants)
    done = command()
    assert (done.returncode, done.stderr) == (0, "")
    one, other = done.stdout.splitlines()
    assert one.startswith("tenant acme: 5 groups compared, all equal (generation 1, ")
    assert other.startswith("tenant other: 5 groups compared, all equal")

    async def spoil(stores: Stores) -> None:
        for period in "am":
            await stores.client.zincrby(f"is:{{other/0}}:1:r:a:{period}", -2, "off_1")

    with_stores(redis_url, database_url, spoil)
    done = command("--sample", "50")
    assert done.returncode == 1
    assert done.stdout.splitlines()[1:3] == [
        'tenant other: action "off_1" monthly (rank): counters 33, history 31',
        'tenant other: action "off_1" alltime (rank): counters 42, history 40',
    ]
    assert "1 differ in 2 cells" in done.stdout.splitlines()[3]
    assert done.stderr == (
        "error: counters and history differ: other; run `audit --repair`, or `rebuild`\n"
    )
    document = json.loads(command("--json", "--max-cells", "1", "--tenant", "other").stdout)
    (tenant,) = document["tenants"]
    assert (document["drift"], tenant["drift"], tenant["groups"]) == (True, True, 5)
    assert (tenant["differing"]["cells"], len(tenant["differing"]["shown"])) == (2, 1)
    assert tenant["differing"]["shown"][0] == {
        "grouping": "action",
        "id": "off_1",
        "period": "monthly",
        "column": "(rank)",
        "counters": 33,
        "history": 31,
    }

    async def notes(stores: Stores) -> None:
        audits = await stores.counters.reports.audits()
        assert {name: (a.result, a.cells) for name, a in audits.items()} == expected

    expected = {"acme": ("clean", 0), "other": ("drift", 2)}
    with_stores(redis_url, database_url, notes)
    done = command("--repair", "--max-cells", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == "tenant other: and 2 more cells"
    assert done.stdout.splitlines()[3] == (
        "tenant other: 1 groups corrected; compared again: all equal"
    )
    expected = {"acme": ("clean", 0), "other": ("repaired", 0)}
    with_stores(redis_url, database_url, notes)
    assert command().returncode == 0


def test_bad_usage_and_missing_stores(command: Command) -> None:
    for wrong in (("--sample", "0"), ("--max-cells", "-1"), ("--tenant", "nobody"), ("--all",)):
        done = command(*wrong)
        assert (done.returncode, done.stdout) == (2, ""), wrong
    done = run_command("audit")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1


def worker(stores: Stores, settings: Settings, now_ms: int = NOW_MS) -> PeriodicAudit:
    async def timezone_of(tenant: str) -> str:
        return "UTC"

    return make_periodic_audit(
        settings, stores.client, stores.pool, timezone_of=timezone_of, now_ms=lambda: now_ms
    )


def drift_cells() -> float | None:
    return REGISTRY.get_sample_value("interaction_summary_audit_drift_cells")


def test_one_worker_audits_the_tenants_in_turn(redis_url: str, database_url: str) -> None:
    settings = Settings(redis_url=redis_url, database_url=database_url, audit_every_s=0.05)

    async def body(stores: Stores) -> None:
        first = worker(stores, settings)
        await first.audit_next()
        assert await stores.counters.reports.audits() == {}
        for partition, tenant in enumerate(("acme", "other")):
            await fill(stores, tenant, 30, NOW_MS, partition=partition)
        second = worker(stores, settings, NOW_MS + 1)
        await stores.client.zincrby("is:{acme/0}:1:r:a:m", -5, "off_1")

        async def audited(by: PeriodicAudit, n: int) -> bool:
            await by.audit_next()
            return len(await stores.counters.reports.audits()) == n

        with capture_logs() as logs:
            assert await audited(first, 1)
        (line,) = [line for line in logs if line["event"] == "counters differ from history"]
        assert (line["log_level"], line["tenant"], line["cells"]) == ("error", "acme", 1)
        assert line["first"] == ["action off_1 monthly (rank): 15, not 10"]
        assert drift_cells() == 1
        await eventually_async(lambda: audited(second, 2))
        audits = await stores.counters.reports.audits()
        assert [(t, a.result, a.source) for t, a in sorted(audits.items())] == [
            ("acme", "drift", "worker"),
            ("other", "clean", "worker"),
        ]
        assert drift_cells() == 1, "also in the worker that did not find it"

    with_stores(redis_url, database_url, body)


def test_only_one_worker_takes_the_turn_and_0_is_off(redis_url: str, database_url: str) -> None:
    settings = Settings(redis_url=redis_url, database_url=database_url)

    async def body(stores: Stores) -> None:
        await fill(stores, "acme", 30, NOW_MS)
        off = worker(stores, settings.model_copy(update={"audit_every_s": 0.0}))
        await off.audit_next()
        assert await stores.counters.reports.audits() == {}
        await asyncio.gather(*(worker(stores, settings, NOW_MS + i).audit_next() for i in range(4)))
        (note,) = (await stores.counters.reports.audits()).values()
        assert (note.result, note.cells, note.sample) == ("clean", 0, 20)
        await worker(stores, settings, NOW_MS + 9).audit_next()
        assert await stores.counters.reports.audits() == {"acme": note}
        assert 3_500_000 < await stores.client.pttl("is:audit_turn") <= 3_600_000

    with_stores(redis_url, database_url, body)


def test_a_drift_that_was_repaired_meanwhile_is_not_noted(
    redis_url: str, database_url: str
) -> None:
    """Clean samples would not clear it: only a whole audit does."""
    settings = Settings(redis_url=redis_url, database_url=database_url)

    async def body(stores: Stores) -> None:
        await fill(stores, "acme", 30, NOW_MS)
        await stores.client.zincrby("is:{acme/0}:1:r:a:m", -5, "off_1")
        periodic = worker(stores, settings)
        repaired = AuditNote(
            at_ms=NOW_MS,
            result="repaired",
            groups=9,
            cells=0,
            source="command",
            duration_s=0.1,
            generation=1,
            sample=None,
            reason="",
        )
        audit = periodic.auditor.audit

        async def repaired_meanwhile(tenant: str, **options: Any) -> TenantAudit:
            found = await audit(tenant, **options)
            assert found.differing
            await stores.counters.reports.note_audit(tenant, repaired)
            return found

        periodic.auditor.audit = repaired_meanwhile  # type: ignore[method-assign]
        await periodic.audit_next()
        assert await stores.counters.reports.audits() == {"acme": repaired}

    with_stores(redis_url, database_url, body)


def test_a_turn_without_postgres_is_skipped(
    services: Services, redis_url: str, database_url: str
) -> None:
    settings = Settings(redis_url=redis_url, database_url=database_url)

    async def body(stores: Stores) -> None:
        await fill(stores, "acme", 30, NOW_MS)
        services.postgres.stop()
        await worker(stores, settings).audit_next()
        (note,) = (await stores.counters.reports.audits()).values()
        assert note.result == "skipped"
        assert note.reason.startswith("Postgres: ")

    with_stores(redis_url, database_url, body)
