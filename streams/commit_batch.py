"""Builds commit batches: decodes records, and rejects what must not be counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from store import metrics
from store.logs import get_logger
from store.records import CountingRules, Event, SourcedEvent
from streams.counting_catalogs import CountingCatalogs
from streams.dead_letters.alarm import RatioAlarm
from streams.dead_letters.record import RejectedRecord
from streams.decode.decoder import Decoder
from streams.decode.rejection import (
    Reason,
    Skipped,
    reject,
    too_many_tenants,
    unregistered_tenant,
    unregistered_type,
)
from streams.isolation import Isolation
from streams.kafka.corrupt_batch import CorruptBatch
from streams.kafka.record_time import RECORDED_AHEAD_MAX_MS
from streams.retry import retry
from streams.tenant_state import TenantStates

logger = get_logger("pipeline")

#: A record's `timestamp_type` on topics with `message.timestamp.type=LogAppendTime`.
LOG_APPEND_TIME: Final = 1


#: Records that are decoded before other tasks run: some 10 ms.
DECODED_AT_ONCE: Final = 2_000


class CommitBatch(NamedTuple):
    """Events of one commit: a part of a fetched batch, decoded."""

    events: Mapping[str, list[SourcedEvent]]
    """By tenant."""
    rejected: Sequence[RejectedRecord]
    """In the order of their offsets."""
    next_offset: int
    size: int
    """Bytes of the records."""
    of_removed: Sequence[SourcedEvent] = ()
    """Events that were counted before their tenant was removed. History may lack them."""


class CommitBatchBuilder:
    """Turns records into commit batches. Reads catalogs, and creates counters of new tenants."""

    def __init__(
        self,
        *,
        decoder: Decoder,
        catalogs: CountingCatalogs,
        tenants: TenantStates,
        alarm: RatioAlarm,
        isolation: Isolation,
        now_ms: Callable[[], int],
        registered_only: bool = False,
    ) -> None:
        """Create a builder. `alarm` is told how many events of each batch were rejected.

        `isolation` bounds the records on which decoding fails, which are rejected.
        With `registered_only`, events of tenants without a catalog are rejected.
        """
        self._registered_only = registered_only
        self._decoder = decoder
        self._catalogs = catalogs
        self._tenants = tenants
        self._alarm = alarm
        self._isolation = isolation
        self._now_ms = now_ms
        self._warned: set[str] = set()
        """Tenants whose counters have another time zone than their catalog."""

    async def build(self, partition: int, records: Sequence[Any]) -> CommitBatch:
        """Decode the records of one partition; reject tenants and types that are not registered."""
        by_tenant, rejected = await self._decode(partition, records)
        by_offset = {record.offset: record for record in records}
        if self._registered_only:
            for tenant in await unregistered(self._catalogs, by_tenant):
                rejected += [
                    RejectedRecord(
                        partition, by_offset[e.offset], unregistered_tenant(e.event), tenant
                    )
                    for e in by_tenant.pop(tenant)
                ]
        rules = await rules_for(self._catalogs, by_tenant)
        for tenant, events in list(by_tenant.items()):
            types = rules[tenant].outcome_types
            registered = [e for e in events if e.event.outcome in types]
            if len(registered) < len(events):
                rejected += [
                    RejectedRecord(
                        partition, by_offset[e.offset], unregistered_type(e.event), tenant
                    )
                    for e in events
                    if e.event.outcome not in types
                ]
                by_tenant[tenant] = registered
                if not registered:
                    del by_tenant[tenant]
        of_removed = await self._take_removed(partition, by_tenant)
        for tenant in await self._tenants.refuse_excess(by_tenant):
            rejected += [
                RejectedRecord(
                    partition,
                    by_offset[e.offset],
                    too_many_tenants(e.event, self._tenants.tenants_max),
                    tenant,
                )
                for e in by_tenant.pop(tenant)
            ]
        for tenant in by_tenant:
            await self._check_timezone(tenant, rules[tenant].timezone)
        await self._catalogs.keep_copies(by_tenant)
        rejected.sort(key=lambda each: each.record.offset)
        self._report(len(records), rejected)
        size = sum(len(record.value or b"") for record in records)
        return CommitBatch(by_tenant, rejected, records[-1].offset + 1, size, of_removed)

    async def _decode(
        self, partition: int, records: Sequence[Any]
    ) -> tuple[dict[str, list[SourcedEvent]], list[RejectedRecord]]:
        now_ms = self._now_ms()
        decode = self._decoder.decode
        by_tenant: dict[str, list[SourcedEvent]] = {}
        rejected: list[RejectedRecord] = []
        self._isolation.note_records(len(records))
        for n, record in enumerate(records, 1):
            if n % DECODED_AT_ONCE == 0:
                await asyncio.sleep(0)
            # Without a call for each record of a topic with the producers' timestamps.
            is_appended = record.timestamp_type == LOG_APPEND_TIME
            decoded = decode(record.value, judged_at_ms(record, now_ms) if is_appended else now_ms)
            if isinstance(decoded, Event):
                of_tenant = by_tenant.get(decoded.tenant)
                if of_tenant is None:
                    of_tenant = by_tenant[decoded.tenant] = []
                of_tenant.append(SourcedEvent(decoded, record.offset, recorded_ms(record, now_ms)))
            elif isinstance(decoded, Skipped):
                metrics.SKIPPED.inc()
            else:
                if decoded.error is not None:
                    self._isolation.note_failure(
                        decoded.error, partition=partition, offset=record.offset
                    )
                if isinstance(record.value, CorruptBatch):
                    decoded = reject(Reason.CORRUPT_BATCH, record.value.error)
                rejected.append(RejectedRecord(partition, record, decoded))
        return by_tenant, rejected

    async def _take_removed(
        self, partition: int, by_tenant: dict[str, list[SourcedEvent]]
    ) -> list[SourcedEvent]:
        """Take out the events that were counted before their tenant was removed; return them."""
        taken: list[SourcedEvent] = []
        ends = await self._tenants.counted_before_removal(by_tenant, partition)
        for tenant, end in ends.items():
            events = by_tenant.pop(tenant)
            taken += [e for e in events if e.offset < end]
            if newer := [e for e in events if e.offset >= end]:
                by_tenant[tenant] = newer
        return taken

    async def _check_timezone(self, tenant: str, timezone: str) -> None:
        """Warn, once, if the counters were created before the catalog gave the tenant its zone."""
        counted_in = (await self._tenants.get(tenant)).generation.timezone
        if timezone == counted_in:
            self._warned.discard(tenant)
        elif tenant not in self._warned:
            self._warned.add(tenant)
            logger.warning(
                "counters have another time zone than the catalog; history answers until "
                "`interaction-summary rebuild`",
                tenant=tenant,
                counters=counted_in,
                catalog=timezone,
            )

    def _report(self, events: int, rejected: Sequence[RejectedRecord]) -> None:
        """Update the metrics, and the alarm on the share of rejected events."""
        for each in rejected:
            metrics.DEAD_LETTERS.labels(each.rejection.reason).inc()
        if self._alarm.note(events, len(rejected)):
            metrics.DEAD_LETTER_ALARM.set(self._alarm.is_on)
            counts = {"dead_letters": self._alarm.bad, "of_the_last": self._alarm.events}
            if self._alarm.is_on:
                detail = rejected[-1].rejection.detail
                logger.error("dead-letter ratio too high", last=detail, **counts)
            else:
                logger.info("dead-letter ratio back to normal", **counts)


async def unregistered(catalogs: CountingCatalogs, tenants: Collection[str]) -> list[str]:
    """Return those of the tenants that have no catalog. Waits while that cannot be asked."""
    rules = await retry("catalog", catalogs.rules, tenants)
    doubtful = [tenant for tenant in tenants if not rules[tenant].registered]
    if not doubtful:
        return []
    # They may have been registered since they were looked up, and then their events must count.
    rules = await retry("catalog", catalogs.confirmed_rules, doubtful)
    return [tenant for tenant in doubtful if not rules[tenant].registered]


async def rules_for(
    catalogs: CountingCatalogs, by_tenant: Mapping[str, Sequence[SourcedEvent]]
) -> dict[str, CountingRules]:
    """Return the rules for the events of each tenant. Waits for those that are not known.

    A type that a tenant's rules lack may have been registered a moment ago, so they are asked for
    once more.
    """
    rules = await retry("catalog", catalogs.rules, by_tenant.keys())
    lacking = [
        tenant
        for tenant, events in by_tenant.items()
        if not {e.event.outcome for e in events} <= rules[tenant].outcome_types
    ]
    if lacking:
        rules |= await retry("catalog", catalogs.fresh_rules, lacking)
    return rules


def split_evenly(records: Sequence[Any], max_records: int) -> Iterator[Sequence[Any]]:
    """Yield all records in order, in as few and as even parts of `max_records` as possible.

    A small rest would cost a commit like any other.
    """
    parts = -(-len(records) // max_records)
    for n in range(parts):
        yield records[len(records) * n // parts : len(records) * (n + 1) // parts]


def judged_at_ms(record: Any, now_ms: int) -> int:
    """Return the time that decides whether an event is too far in the future.

    That is the time when the broker appended the record, where the broker gives it: a record that
    is read again is then judged as before.
    """
    return min(now_ms, record.timestamp) if record.timestamp_type == LOG_APPEND_TIME else now_ms


def recorded_ms(record: Any, now_ms: int) -> int:
    """Return when the record arrived, as its timestamp says, or `now_ms` if that cannot be.

    Where producers set it, some send none, or another unit than ms. Identities are kept by it, and
    history stores it.
    """
    timestamp: int = record.timestamp
    return timestamp if 0 <= timestamp <= now_ms + RECORDED_AHEAD_MAX_MS else now_ms
