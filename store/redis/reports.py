"""What workers report about themselves in Redis: progress, arrival watermarks and incidents.

Counters do not depend on these reports. They serve `status`, the lag of the API, and the checks
that a worker makes of its own counters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from redis.asyncio import RedisCluster

from store.audit import AuditNote
from store.counters import Incidents, LogChange, PartitionProgress, Visible
from store.offsets import Gap, offsets_in
from store.redis.client import Client, Script, redis_errors
from store.redis.keys import Keys

#: Workers report twice a second; an older report says nothing about the present.
PROGRESS_OLD_MS: Final = 10_000
#: How long a swap or a rollback is announced. Workers look twice a second.
ACTIVATIONS_KEPT_MS: Final = 3_600_000


class RedisReports:
    """Reports of the workers. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client: Any = client
        self._keys = Keys(prefix)
        self._activation = Script("activation")

    async def instance(self) -> str:
        """Return an id that changes when Redis restarts or another server takes over.

        After such a change the last writes may be missing.
        """
        async with redis_errors():
            if isinstance(self._client, RedisCluster):
                infos = await self._client.info("server", target_nodes=RedisCluster.PRIMARIES)
                return ",".join(sorted(str(info["run_id"]) for info in infos.values()))
            return str((await self._client.info("server"))["run_id"])

    async def lag(self, now_ms: int) -> int | None:
        """Return the number of events in the topic that are not counted, from the last reports.

        None means unknown: there is no report, or no recent one, because no worker has the
        partition or the worker hangs. Topic ids that were replaced are left out.
        """
        progress = await self.progress()
        if not progress:
            return None
        newest = max(progress, key=lambda p: p.at_ms).topic_id
        current = [p for p in progress if p.topic_id == newest]
        if any(p.end_offset is None or now_ms - p.at_ms > PROGRESS_OLD_MS for p in current):
            return None
        return sum(max(0, (p.end_offset or 0) - p.next_offset) for p in current)

    async def report_progress(self, progress: Sequence[PartitionProgress]) -> None:
        """Store the progress of some partitions, replacing their previous reports."""
        if not progress:
            return
        fields = {
            f"{p.topic_id}:{p.partition}": f"{p.next_offset},"
            f"{'' if p.end_offset is None else p.end_offset},{p.at_ms}"
            + "".join(f",{ms}" for ms in p.visible or ())
            for p in progress
        }
        rates = {
            f"{p.topic_id}:{p.partition}": p.offsets_per_s
            for p in progress
            if p.offsets_per_s is not None
        }
        async with redis_errors():
            pipeline = self._client.pipeline(transaction=False)
            pipeline.hset(self._keys.progress, mapping=fields)
            if rates:
                pipeline.hset(self._keys.rates, mapping=rates)
            await pipeline.execute()

    async def progress(self) -> list[PartitionProgress]:
        """Return the last report on each partition, of every topic id that was ever read."""
        async with redis_errors():
            pipeline = self._client.pipeline(transaction=False)
            pipeline.hgetall(self._keys.progress)
            pipeline.hgetall(self._keys.rates)
            answers: list[dict[bytes, bytes]] = await pipeline.execute()
        fields, rates = answers
        found = []
        for name, value in fields.items():
            topic_id, _, partition = name.decode().rpartition(":")
            next_offset, end, at_ms, *visible = value.decode().split(",")
            found.append(
                PartitionProgress(
                    topic_id=topic_id,
                    partition=int(partition),
                    next_offset=int(next_offset),
                    end_offset=int(end) if end else None,
                    at_ms=int(at_ms),
                    visible=Visible(*map(int, visible)) if visible else None,
                    offsets_per_s=float(rates[name]) if name in rates else None,
                )
            )
        return sorted(found)

    async def report_arrivals(self, topic_id: str, watermarks: Mapping[int, int]) -> None:
        """Store partition -> arrival watermark in ms: every earlier arrival has been counted."""
        if watermarks:
            async with redis_errors():
                await self._client.hset(
                    self._keys.arrivals,
                    mapping={f"{topic_id}:{p}": ms for p, ms in watermarks.items()},
                )

    async def arrivals(self, topic_id: str | None = None) -> Mapping[int, int]:
        """Return partition -> arrival watermark in ms, as reported last.

        Without `topic_id`, of the topic id with the latest arrival watermark.
        """
        async with redis_errors():
            fields: dict[bytes, bytes] = await self._client.hgetall(self._keys.arrivals)
        found = [(*name.decode().rpartition(":")[::2], int(ms)) for name, ms in fields.items()]
        if topic_id is None:
            topic_id = max(found, key=lambda entry: entry[2])[0] if found else ""
        return {int(partition): ms for of, partition, ms in found if of == topic_id}

    async def note_lost(
        self, topic_id: str, partition: int, first_offset: int, offsets: int
    ) -> None:
        """Record that retention deleted `offsets` offsets, from `first_offset` on.

        Only where the counters lack them: what history lacks is noted in Postgres.
        """
        async with redis_errors():
            await self._client.hset(
                self._keys.incidents, f"lost:{topic_id}:{partition}:{first_offset}", offsets
            )

    async def last_lost(self, topic_id: str) -> Mapping[int, int]:
        """Return partition -> highest first offset of a loss; only partitions with a loss."""
        async with redis_errors():
            fields: list[bytes] = await self._client.hkeys(self._keys.incidents)
        last: dict[int, int] = {}
        for name in fields:
            kind, _, position = name.decode().partition(":")
            if kind == "lost" and position.startswith(f"{topic_id}:"):
                _, partition, first_offset = position.split(":")
                last[int(partition)] = max(int(first_offset), last.get(int(partition), 0))
        return last

    async def note_activation(self, tenant: str) -> None:
        """Tell the workers that another generation of the tenant was activated."""
        await self._activation(self._client, self._keys.activations, tenant, ACTIVATIONS_KEPT_MS)

    async def activations_since(self, at_ms: int) -> Mapping[str, int]:
        """Return tenant -> time in ms of its last swap or rollback, of those not before `at_ms`.

        All times are of the clock of Redis. Those of the last hour are kept.
        """
        async with redis_errors():
            found: list[tuple[bytes, float]] = await self._client.zrangebyscore(
                self._keys.activations, at_ms, "+inf", withscores=True
            )
        return {tenant.decode(): int(score) for tenant, score in found}

    async def note_log_change(self, kind: str, topic_id: str, at_ms: int) -> None:
        """Record that the topic was recreated or truncated (`kind`: `recreated` or `cut`)."""
        async with redis_errors():
            await self._client.hset(self._keys.incidents, f"{kind}:{topic_id}", at_ms)

    async def note_audit(self, tenant: str, note: AuditNote) -> None:
        """Store the outcome of the tenant's last audit."""
        async with redis_errors():
            await self._client.hset(self._keys.audits, tenant, msgspec.json.encode(note))

    async def audits(self) -> dict[str, AuditNote]:
        """Return tenant -> outcome of its last audit, of the tenants that had one."""
        async with redis_errors():
            fields: dict[bytes, bytes] = await self._client.hgetall(self._keys.audits)
        return {
            tenant.decode(): msgspec.json.decode(note, type=AuditNote)
            for tenant, note in fields.items()
        }

    async def lost(self) -> list[Gap]:
        """Return the offsets that retention deleted before they were counted."""
        return (await self._incidents())[0]

    async def incidents(self) -> Incidents:
        """Return the lost offsets and the topic changes recorded so far."""
        lost, changes = await self._incidents()
        return Incidents(offsets_in(lost), sorted(changes, key=lambda c: c.at_ms))

    async def _incidents(self) -> tuple[list[Gap], list[LogChange]]:
        async with redis_errors():
            fields: dict[bytes, bytes] = await self._client.hgetall(self._keys.incidents)
        lost, changes = [], []
        for name, value in fields.items():
            kind, _, rest = name.decode().partition(":")
            if kind == "lost":
                topic_id, partition, first = rest.split(":")
                lost.append(Gap(topic_id, int(partition), int(first), int(first) + int(value)))
            else:
                changes.append(LogChange(kind, rest, int(value)))
        return lost, changes
