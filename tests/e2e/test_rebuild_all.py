"""Rebuild and rollback of all tenants: one that fails does not stop the others."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from tests.support.live_traffic import Events, produce
from tests.support.program import Process, Program
from tests.support.rebuilds import generations

TENANTS = ("acme", "beta", "corp")
EVENTS = 300


@pytest.mark.long
def test_one_tenant_that_fails_does_not_stop_the_others(program: Program) -> None:
    settings = program.settings
    for seed, tenant in enumerate(TENANTS):
        asyncio.run(produce(settings, Events(tenant, customers=20, seed=seed), EVENTS))
    worker = program.worker()
    total = EVENTS * len(TENANTS)
    program.wait_for(counted=total, stored=total, alive=[worker])
    with psycopg.connect(settings.database_url) as connection:
        connection.execute(
            "DELETE FROM interaction_history WHERE tenant_id = 'beta' AND customer_id = 'C-1'"
        )

    failed = program.start("history", "rebuild", "--from", "history")
    assert failed.wait(60) == 1, failed.tail()
    lines = text_of(failed)
    assert any(line.startswith("tenant acme: 300 events") for line in lines), lines
    assert any(line.startswith("tenant corp: 300 events") for line in lines), lines
    (reason,) = (line for line in lines if line.startswith("failed: "))
    assert "tenant beta: " in reason and "events would be lost" in reason
    assert lines[-1] == "error: 1 tenant failed"
    assert active(program) == [2, 1, 2]

    failed = program.start("rollback", "rebuild", "--rollback")
    assert failed.wait(60) == 1, failed.tail()
    lines = text_of(failed)
    assert lines[0].startswith("tenant acme: back at generation 1"), lines
    assert lines[1].startswith("failed: tenant beta: there is no generation before"), lines
    assert lines[2].startswith("tenant corp: back at generation 1"), lines
    assert active(program) == [1, 1, 1]

    assert "tenant beta: 300 events" in program.run("rebuild")
    assert [generations(settings, tenant).active_complete for tenant in TENANTS] == [True] * 3


def text_of(process: Process) -> list[str]:
    """Return the lines that are not progress."""
    return [line for line in process.log().splitlines() if not line.startswith("{")]


def active(program: Program) -> list[int]:
    """Return the number of each tenant's active generation."""
    return [generations(program.settings, tenant).active for tenant in TENANTS]
