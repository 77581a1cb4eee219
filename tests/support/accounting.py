"""Accounting of a topic: each of its records must have ended in exactly one place."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from store.clock import system_clock_ms
from store.postgres.pool import open_pool
from store.records import Event
from store.redis.counters import open_counters
from store.settings import Settings
from streams.dead_letters import headers as dead_letters
from streams.decode.decoder import make_decoder
from streams.decode.rejection import Skipped
from tests.support.topics import read_records

#: Partition and offset of a record.
Position = tuple[int, int]
#: Where a record has ended. A copy has the identity of a record that is stored.
Outcome = Literal["stored", "dead letter", "quarantined", "skipped", "copy"]


async def account(settings: Settings) -> dict[Position, Outcome]:
    """Return the outcome of each record of the interactions topic.

    Raises AssertionError if a record has none or two, if a dead letter was sent more than once, or
    if the counters and history have different numbers of events.
    """
    stored, types = await _rows(settings)
    quarantined = await _quarantined(settings)
    dead = Counter(
        (info.partition, info.offset)
        for record in await _records(settings, settings.dead_letter_topic)
        if (info := dead_letters.parse(record.headers)) is not None
    )
    repeated = [position for position, times in dead.items() if times > 1]
    assert not repeated, f"dead letters sent more than once: {repeated[:5]}"
    decode = make_decoder(settings).decode
    found: dict[Position, Outcome] = {}
    identities = set()
    for record in await _records(settings, settings.interactions_topic):
        position = record.partition, record.offset
        outcomes: list[Outcome] = []
        if position in stored:
            outcomes.append("stored")
        if position in dead:
            outcomes.append("dead letter")
        if position in quarantined:
            outcomes.append("quarantined")
        event = decode(record.value, system_clock_ms())
        if not outcomes and isinstance(event, Skipped):
            outcomes.append("skipped")
        elif not outcomes and isinstance(event, Event) and event.outcome in types:
            identities.add(event.event_id)
            outcomes.append("copy")
        assert len(outcomes) == 1, f"{position}: {outcomes or 'nowhere'}: {str(record)[:1_000]}"
        found[position] = outcomes[0]
    missing = len(identities - await _identities(settings))
    assert not missing, f"{missing} events are neither stored nor copies of stored ones"
    unknown = dead.keys() - found.keys()
    assert not unknown, f"dead letters of records that do not exist: {sorted(unknown)[:5]}"
    counted, rows = await _counted(settings), Counter(found.values())["stored"]
    assert counted == rows, f"counted {counted:,}, in history {rows:,}"
    return found


async def _records(settings: Settings, topic: str) -> list[Any]:
    of_partitions = (await read_records(settings, topic)).values()
    return [record for records in of_partitions for record in records]


async def _rows(settings: Settings) -> tuple[set[Position], set[str]]:
    async with open_pool(settings, max_size=1) as pool, pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT source_partition, source_offset FROM interaction_history"
        )
        stored = {(int(p), int(offset)) for p, offset in await cursor.fetchall()}
        cursor = await connection.execute("SELECT key FROM outcome_types")
        return stored, {key for (key,) in await cursor.fetchall()}


async def _quarantined(settings: Settings) -> set[Position]:
    async with open_pool(settings, max_size=1) as pool, pool.connection() as connection:
        cursor = await connection.execute(
            'SELECT partition, generate_series("offset", next_offset - 1) '
            "FROM quarantined_records WHERE topic = %s",
            (settings.interactions_topic,),
        )
        return {(int(p), int(offset)) for p, offset in await cursor.fetchall()}


async def _identities(settings: Settings) -> set[bytes]:
    async with open_pool(settings, max_size=1) as pool, pool.connection() as connection:
        cursor = await connection.execute("SELECT event_id FROM interaction_history")
        return {row[0].bytes for row in await cursor.fetchall()}


async def _counted(settings: Settings) -> int:
    total = 0
    async with open_counters(settings, timeout_s=30) as counters:
        for tenant in await counters.tenants():
            generation = await counters.generation(tenant)
            assert generation is not None and generation.complete, tenant
            total += await counters.events(generation) or 0
    return total
