"""Clusters of Redis: primaries without replicas, and one made and resharded by `redis-cli`."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import redis

from cli.embedded.server import HOST, free_port
from tests.support.services.base import Faults
from tests.support.services.tcp import TcpValkey
from tests.support.waiting import eventually

SLOTS: Final = 16_384


class ClusterNode(Faults, TcpValkey):
    """A node of a cluster, without the others."""

    def __init__(
        self, data_dir: Path, *, program: Path | None = None, node_timeout_ms: int = 15_000
    ) -> None:
        """`node_timeout_ms`: silence after which the others take the node for dead."""
        super().__init__(None, data_dir, program=program)
        self._node_timeout_ms = node_timeout_ms
        # By default the port + 10,000, which the OS may have given to an outgoing connection.
        self.bus_port = free_port()

    def _command(self) -> list[str]:
        cluster = ["--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)]
        timeout = ["--cluster-node-timeout", str(self._node_timeout_ms)]
        return [*super()._command(), *cluster, *timeout]


@contextmanager
def redis_cluster(folder: Path, primaries: int = 2) -> Iterator[list[ClusterNode]]:
    """Start the nodes, with their data in `folder`, and stop them at the end."""
    with ExitStack() as stack:
        nodes, clients = [], []
        for index in range(primaries):
            (folder / f"node{index}").mkdir()
            node = ClusterNode(folder / f"node{index}")
            stack.callback(node.stop)
            node.start()
            client = stack.enter_context(redis.Redis.from_url(node.url))
            first, end = SLOTS * index // primaries, SLOTS * (index + 1) // primaries
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            nodes.append(node)
            clients.append(client)
        for node in nodes[1:]:
            clients[0].execute_command("CLUSTER", "MEET", HOST, node.port, node.bus_port)

        def joined() -> bool:
            states: list[Any] = [client.execute_command("CLUSTER", "INFO") for client in clients]
            return all("cluster_state:ok" in str(state) for state in states)

        eventually(joined, message="a cluster")
        yield nodes


class CliCluster:
    """Three primaries and three replicas of the Redis server, managed as operators do it."""

    def __init__(self, nodes: list[ClusterNode], cli: Path) -> None:
        self.nodes = nodes
        self._cli = str(cli)

    def create(self) -> None:
        """Join the nodes; wait until each knows the others, and the replicas have a copy."""
        addresses = [f"{HOST}:{node.port}@{node.bus_port}" for node in self.nodes]
        command = [self._cli, "--cluster", "create", *addresses]
        done = subprocess.run(
            [*command, "--cluster-replicas", "1", "--cluster-yes"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        eventually(self.is_whole, message="a cluster of six nodes")

    def is_whole(self) -> bool:
        """Return whether each node knows all others, and each replica has a copy."""
        for node in self.nodes:
            info = _asked(node, "CLUSTER", "INFO")
            if "cluster_state:ok" not in info or "cluster_known_nodes:6" not in info:
                return False
            # A replica without a copy is not promoted; the first copy takes some 5 s.
            if "'master_link_status': 'down'" in _asked(node, "INFO", "replication"):
                return False
        return True

    def ids(self) -> dict[str, str]:
        """Return address -> id of the nodes."""
        lines = [line.split() for line in _asked(self.nodes[0], "CLUSTER", "NODES").splitlines()]
        return {line[1].partition("@")[0]: line[0] for line in lines}

    async def reshard(self, source: ClusterNode, target: ClusterNode, slots: int) -> None:
        """Move the first `slots` slots of `source`, key by key.

        The nodes must agree about where the slots are. After the last move that takes a moment.
        """
        async with asyncio.timeout(60):
            while (await self._run("check"))[0] != 0:
                pass
        ids = self.ids()
        code, printed = await self._run(
            "reshard",
            *("--cluster-from", ids[f"{HOST}:{source.port}"]),
            *("--cluster-to", ids[f"{HOST}:{target.port}"]),
            *("--cluster-slots", str(slots), "--cluster-pipeline", "1", "--cluster-yes"),
        )
        assert code == 0, printed[-2_000:]

    async def _run(self, command: str, *options: str) -> tuple[int | None, str]:
        """Run a command of the cluster; return its exit code and what it printed."""
        process = await asyncio.create_subprocess_exec(
            *(self._cli, "--cluster", command, f"{HOST}:{self.nodes[0].port}"),
            *options,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await process.communicate()
        return process.returncode, printed.decode()


def _asked(node: ClusterNode, *command: str) -> str:
    with redis.Redis.from_url(node.url) as client:
        answer: Any = client.execute_command(*command)
        return answer.decode() if isinstance(answer, bytes) else str(answer)


@contextmanager
def cli_cluster(
    folder: Path, server: Path, cli: Path, *, node_timeout_ms: int = 15_000
) -> Iterator[CliCluster]:
    """Start six nodes, join them with `redis-cli`, and stop them at the end."""
    with ExitStack() as stack:
        nodes = []
        for n in range(6):
            (folder / f"node-{n}").mkdir()
            node = ClusterNode(
                folder / f"node-{n}", program=server, node_timeout_ms=node_timeout_ms
            )
            stack.callback(node.stop)
            node.start()
            nodes.append(node)
        cluster = CliCluster(nodes, cli)
        cluster.create()
        yield cluster
