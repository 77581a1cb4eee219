"""Reports of the workers in Redis: progress, arrival watermarks, incidents of the topic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.asyncio import RedisCluster

from store.counters import Incidents, LogChange, PartitionProgress, Visible
from store.redis.client import Client, redis_errors
from store.redis.keys import Keys

#: Workers report twice a second; an older report does not describe the present.
PROGRESS_OLD_MS: Final = 10_000


class RedisReports:
    """What workers report for lag and `status`. Every method raises StoreUnavailable."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client: Any = client  # the driver's types cover answers of str and of bytes
        self._keys = Keys(prefix)

    async def report_progress(self, marks: Sequence[PartitionProgress]) -> None:
        if not marks:
            return
        fields = {
            f"{m.topic_id}:{m.partition}": f"{m.next_offset},"
            f"{'' if m.end_offset is None else m.end_offset},{m.at_ms}"
            + "".join(f",{ms}" for ms in m.visible or ())
            for m in marks
        }
        async with redis_errors():
            await self._client.hset(self._keys.progress, mapping=fields)

    async def progress(self) -> list[PartitionProgress]:
        """The last word of the workers on each partition, of any log they ever read."""
        async with redis_errors():
            fields: dict[bytes, bytes] = await self._client.hgetall(self._keys.progress)
        found = []
        for name, value in fields.items():
            topic_id, _, partition = name.decode().rpartition(":")
            next_offset, end, at_ms, *visible = value.decode().split(",")
            found.append(
                PartitionProgress(
                    topic_id,
                    int(partition),
                    int(next_offset),
                    int(end) if end else None,
                    int(at_ms),
                    Visible(*map(int, visible)) if visible else None,
                )
            )
        return sorted(found)

    async def lag(self, now_ms: int) -> int | None:
        """Events in the log that are not counted, as the workers reported them last; None =
        nothing is known, or nothing new: no worker has a partition, or it hangs. A log that was
        replaced is left out."""
        progress = await self.progress()
        if not progress:
            return None
        newest = max(progress, key=lambda p: p.at_ms).topic_id
        current = [p for p in progress if p.topic_id == newest]
        if any(p.end_offset is None or now_ms - p.at_ms > PROGRESS_OLD_MS for p in current):
            return None
        return sum(max(0, (p.end_offset or 0) - p.next_offset) for p in current)

    async def report_arrivals(self, topic_id: str, read: Mapping[int, int]) -> None:
        """Partition of `log` -> all that arrived before this, in ms, has been counted."""
        if read:
            async with redis_errors():
                await self._client.hset(
                    self._keys.arrivals, mapping={f"{topic_id}:{p}": ms for p, ms in read.items()}
                )

    async def arrivals(self, topic_id: str | None = None) -> Mapping[int, int]:
        """What was reported last; without `log` of the one that was read last."""
        async with redis_errors():
            fields: dict[bytes, bytes] = await self._client.hgetall(self._keys.arrivals)
        places = [(*name.decode().rpartition(":")[::2], int(ms)) for name, ms in fields.items()]
        if topic_id is None:
            topic_id = max(places, key=lambda place: place[2])[0] if places else ""
        return {int(partition): ms for of, partition, ms in places if of == topic_id}

    async def note_lost(self, topic_id: str, partition: int, first: int, offsets: int) -> None:
        async with redis_errors():
            await self._client.hset(
                self._keys.incidents, f"lost:{topic_id}:{partition}:{first}", offsets
            )

    async def last_lost(self, topic_id: str) -> Mapping[int, int]:
        async with redis_errors():
            fields: list[bytes] = await self._client.hkeys(self._keys.incidents)
        last: dict[int, int] = {}
        for name in fields:
            kind, _, place = name.decode().partition(":")
            if kind == "lost" and place.startswith(f"{topic_id}:"):
                _, partition, first = place.split(":")
                last[int(partition)] = max(int(first), last.get(int(partition), 0))
        return last

    async def note_log_change(self, kind: str, topic_id: str, at_ms: int) -> None:
        """Remembers that `log` was recreated or cut."""
        async with redis_errors():
            await self._client.hset(self._keys.incidents, f"{kind}:{topic_id}", at_ms)

    async def incidents(self) -> Incidents:
        async with redis_errors():
            fields: dict[bytes, bytes] = await self._client.hgetall(self._keys.incidents)
        lost = sum(int(v) for k, v in fields.items() if k.startswith(b"lost:"))
        changes = []
        for name, at_ms in fields.items():
            kind, _, topic_id = name.decode().partition(":")
            if kind != "lost":
                changes.append(LogChange(kind, topic_id, int(at_ms)))
        return Incidents(lost, sorted(changes, key=lambda c: c.at_ms))

    async def instance(self) -> str:
        """Changes when Redis was restarted or another server took over: what was written just
        before may then be missing."""
        async with redis_errors():
            if isinstance(self._client, RedisCluster):
                infos = await self._client.info("server", target_nodes=RedisCluster.PRIMARIES)
                return ",".join(sorted(str(info["run_id"]) for info in infos.values()))
            return str((await self._client.info("server"))["run_id"])
