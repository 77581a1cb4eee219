"""A Redis cluster in a chaos run: slots move and primaries end while events are counted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import redis

from cli.embedded.programs import find_program
from cli.embedded.server import HOST, StackError
from tests.support.redis_cluster import CliCluster, ClusterNode, cli_cluster

NODE_TIMEOUT_MS: Final = 3_000
#: Slots that one move takes to another node: least and most.
SLOTS: Final = (200, 1_500)
JOIN_S: Final = 60.0


class ClusterService:
    """The cluster in place of the one Redis of `Services`; the first node is never killed."""

    name = "redis"

    def __init__(self, cluster: CliCluster) -> None:
        self._cluster = cluster
        self.url = cluster.nodes[0].url

    def start(self) -> None:
        for node in self._cluster.nodes:
            if not node.alive():
                node.start()

    def stop(self) -> None:
        for node in self._cluster.nodes:
            node.stop()

    def kill(self) -> None:
        for node in self._cluster.nodes:
            node.kill()

    def pause(self) -> None:
        for node in self._cluster.nodes:
            node.pause()

    def resume(self) -> None:
        for node in self._cluster.nodes:
            node.resume()

    def alive(self) -> bool:
        return all(node.alive() for node in self._cluster.nodes)


class ClusterFaults:
    """Faults of a cluster, one at a time, drawn by a seed."""

    def __init__(self, cluster: CliCluster, seed: int) -> None:
        self._cluster = cluster
        self._draw = random.Random(seed)
        self._turn = asyncio.Lock()

    async def reshard(self) -> None:
        """Move slots from one primary to another."""
        async with self._turn:
            source, target = self._draw.sample(self._primaries(), 2)
            await self._cluster.reshard(source, target, self._draw.randint(*SLOTS))

    async def fail_over(self) -> None:
        """Kill a primary, wait until its replica is promoted, and start it again as a replica.

        Not before each replica has a copy: after a freeze of all nodes, or a restart, a primary may
        have a replica without one, which is not promoted.
        """
        async with self._turn:
            await _until(self._cluster.is_whole)
            first = self._cluster.nodes[0]
            node = self._draw.choice([n for n in self._primaries() if n is not first])
            count = len(self._cluster.ids())
            await asyncio.to_thread(node.kill)
            await _until(lambda: len(self._primaries()) == 3 and node not in self._primaries())
            await asyncio.to_thread(node.start)
            await _until(self._cluster.is_whole)
            assert len(self._cluster.ids()) == count

    def _primaries(self) -> Sequence[ClusterNode]:
        """Return the primaries that live, as the first node sees them."""
        with redis.Redis.from_url(self._cluster.nodes[0].url) as client:
            nodes: Any = client.execute_command("CLUSTER", "NODES")
        lines = [line.split() for line in _text(nodes).splitlines()]
        living = {
            line[1].partition("@")[0]
            for line in lines
            if "master" in line[2].split(",") and "fail" not in line[2]
        }
        return [n for n in self._cluster.nodes if f"{HOST}:{n.port}" in living]


def _text(answer: Any) -> str:
    if isinstance(answer, dict):  # parsed by the client: address -> fields
        return "\n".join(
            f"{fields['node_id']} {address} {fields['flags']}" for address, fields in answer.items()
        )
    return answer.decode() if isinstance(answer, bytes) else str(answer)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(JOIN_S):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.1)


@contextmanager
def chaos_cluster(folder: Path) -> Iterator[CliCluster]:
    """Start three primaries and three replicas of Debian's Redis. Raises StackError."""
    server = find_program("redis-server", "/usr/bin", "/usr/sbin")
    cli = find_program("redis-cli", "/usr/bin")
    if server is None or cli is None:
        raise StackError("redis-server, redis-cli: not installed; apt-get install redis")
    with cli_cluster(folder, server, cli, node_timeout_ms=NODE_TIMEOUT_MS) as cluster:
        yield cluster
