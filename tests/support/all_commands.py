"""One run through every command of the program that uses a store; the answers must be exact."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from store.settings import Settings
from streams.decode.timestamps import format_ms
from streams.kafka.sender import Sender
from tests.support import expected
from tests.support.answers import all_answers
from tests.support.program import Api, Program, read_topic
from tests.support.waiting import eventually

CATALOG = Path(__file__).parents[1] / "data" / "open-bandit-catalog.json"
TENANT, OTHER = "acme", "other"
EVENTS = 2_000
CLASS = {"classification": "neutral", "category": "response"}


def run_all_commands(owner: Program, program: Program, *, kafka_only: bool = False) -> None:
    """Run `migrate` as the owner, and everything else as the program's own user.

    `kafka_only`: leave out what connects to Kafka no other way than the rest does, or not at all.
    """
    assert "tables: 0001_catalog applied" in owner.run("migrate")
    program.run("catalog", "import", str(CATALOG))
    assert "offers" in program.run("catalog", "export", "--tenant", "zozo")
    load = ("--tenant", TENANT, "--customers", "50", "--days", "40", "--duplicates", "0.05")
    output = program.run("load", "--events", str(EVENTS), "--seed", "1", *load)
    assert output.startswith(f"{EVENTS} events acknowledged"), output
    late = json.dumps(_event("special")).encode()
    asyncio.run(_send(program.settings, late))
    worker, api = program.worker(), program.api()
    program.wait_for(counted=EVENTS + 1, stored=EVENTS + 1, alive=[worker, api.process])

    valid = [r.value for r in read_topic(program.settings, program.settings.interactions_topic)]
    valid.remove(late)
    events = expected.distinct(valid)
    assert len(events) < EVENTS, "some were sent twice"
    all_answers(api, "materialized", TENANT, events, {})

    status = json.loads(program.run("status", "--json"))
    assert (status["lag"], status["historyLag"], status["errors"]) == (0, 0, {})
    assert status["deadLetters"], "offsets: one event, and on Kafka the end of its transaction"
    assert program.run("status").splitlines()
    assert "unregistered_type" in program.run("dlq", "list")
    types = {"tenant": OTHER, "outcomeTypes": [{"key": "special", "name": "Special", **CLASS}]}
    program.run("catalog", "import", "-", stdin=json.dumps(types).encode())
    program.run("dlq", "redrive")
    program.wait_for(counted=EVENTS + 2, alive=[worker, api.process])
    assert f"{OTHER} " in program.run("tenants", "list")

    sources = ("topic",) if kafka_only else ("topic", "history")
    for number, source in enumerate(sources, 2):
        program.run("rebuild", "--tenant", TENANT, "--from", source)
        _wait_for_generation(program, number)
        all_answers(api, "materialized", TENANT, events, {})
    if not kafka_only:
        _repair_and_shard(program, api, events)
    program.run("rebuild", "--history", "--tenant", TENANT)
    program.check_alive(worker, api.process)
    assert worker.terminate() == 0
    if not kafka_only:
        program.run("tenants", "remove", TENANT, "--history", "--yes")
        assert TENANT not in program.run("tenants", "list")


def _repair_and_shard(program: Program, api: Api, events: Sequence[dict[str, Any]]) -> None:
    program.run("rebuild", "--tenant", TENANT, "--rollback")
    program.run("audit", "--repair")
    _wait_for_generation(program, 2)
    all_answers(api, "materialized", TENANT, events, {})
    program.run("rebuild", "--tenant", TENANT, "--shards", "2")
    _wait_for_generation(program, 4)
    all_answers(api, "materialized", TENANT, events, {})


def _wait_for_generation(program: Program, number: int) -> None:
    def is_active() -> bool:
        status = json.loads(program.run("status", "--json"))
        (tenant,) = (t for t in status["tenants"] if t["tenant"] == TENANT)
        return bool(tenant["generation"] == number and tenant["complete"])

    eventually(is_active, message=f"generation {number} answers")


def _event(outcome_type: str) -> dict[str, Any]:
    """Return an event of the other tenant."""
    at = format_ms(time.time_ns() // 1_000_000)
    payload = {"interactionId": "1", "tenantId": OTHER, "customerId": "C-1", "offerId": "off_1"}
    return {
        "type": "interaction.recorded.v1",
        "timestamp": at,
        "payload": payload | {"outcomeTypeKey": outcome_type, "timestamp": at},
    }


async def _send(settings: Settings, value: bytes) -> None:
    async with Sender(settings, settings.interactions_topic) as sender:
        await sender.send(None, value)
