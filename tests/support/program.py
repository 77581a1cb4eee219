"""The program as users run it: its commands as processes with an environment, asked over HTTP, and
what Kafka holds read back. Only what decides when to look (how far the stores are) goes around
the commands: asking `status` in a loop would take the processor from what it watches."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition

from cli.embedded.server import free_port
from store.records import StoreUnavailable
from store.redis.counters import open_counters
from store.settings import Settings
from tests.support.waiting import eventually

PROGRAM = Path(sysconfig.get_path("scripts")) / "interaction-summary"
#: What a stop may take, by contract.
STOP_S = 10.0


class Process:
    """A command of ours that runs until it is ended, in a process group of its own. Its output is
    in `log_path`."""

    def __init__(self, arguments: Sequence[str], env: dict[str, str], log_path: Path) -> None:
        self.name = log_path.stem
        self.log_path = log_path
        self._log_start = log_path.stat().st_size if log_path.exists() else 0
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [str(PROGRAM), *arguments],
                env=env,
                cwd=log_path.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL: it has no time to finish anything."""
        self._process.kill()
        self._process.wait()

    def signal(self, which: signal.Signals) -> None:
        self._process.send_signal(which)

    def interrupt(self) -> None:
        """Ctrl-C, which a terminal sends to the whole process group."""
        os.killpg(self.pid, signal.SIGINT)

    def wait(self, timeout_s: float) -> int:
        """The exit code. Fails when the process has not ended within `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} did not end within {timeout_s:g} s\n{self.tail()}"
            ) from None

    def terminate(self, timeout_s: float = STOP_S) -> int:
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def log(self) -> str:
        """What this process said; one of the same name before it is left out."""
        return self.log_path.read_bytes()[self._log_start :].decode(errors="replace")

    def tail(self, lines: int = 25) -> str:
        return "\n".join([f"--- end of {self.log_path}", *self.log().splitlines()[-lines:]])


class Api(NamedTuple):
    """A reader that runs."""

    process: Process
    client: httpx.Client

    def summary(self, tenant: str, **parameters: Any) -> httpx.Response:
        response = self.client.get(
            "/api/v1/interaction-summary", params=parameters, headers={"X-Tenant-Id": tenant}
        )
        assert response.status_code == 200, f"{response.text}\n{self.process.tail()}"
        return response


class Progress(NamedTuple):
    """Offsets of all partitions together, up to which events are counted, and are in history.
    -1 where the store does not answer."""

    counted: int
    stored: int


class Program:
    """Runs commands with the settings given, and ends all that is left when closed."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        values = settings.model_dump() | {"kafka_session_timeout_s": 6}
        self.env = os.environ | {name.upper(): str(value) for name, value in values.items()}
        self._processes: list[Process] = []
        self._clients: list[httpx.Client] = []

    def run(self, *arguments: str, stdin: bytes = b"", timeout_s: float = 120) -> str:
        """What the command answers. It must end well."""
        done = subprocess.run(
            [str(PROGRAM), *arguments],
            env=self.env,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{arguments} -> {done.returncode}: {done.stderr.decode()}"
        return done.stdout.decode()

    def start(self, name: str, *arguments: str, **env: str) -> Process:
        process = Process(arguments, self.env | env, self.folder / f"{name}.log")
        self._processes.append(process)
        return process

    def worker(self, name: str = "worker-1", **env: str) -> Process:
        """A worker. One started again by the same name takes its partitions up again."""
        return self.start(name, "worker", WORKER_INSTANCE_ID=name, **env)

    def api(self) -> Api:
        """A reader on a port of its own; returns when it says that it is ready."""
        port = free_port()
        process = self.start("api", "api", "--port", str(port))
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        self._clients.append(client)

        def ready() -> bool:
            self.check_alive(process)
            try:
                answer = client.get("/readyz")
            except httpx.TransportError:
                return False
            return answer.status_code == 200 and answer.json()["status"] == "ok"

        eventually(ready, timeout_s=30, message="the API is ready")
        return Api(process, client)

    def progress(self) -> Progress:
        return Progress(self.counted(), _stored(self.settings))

    def counted(self) -> int:
        """As the workers last said, which they do twice a second."""
        return asyncio.run(_counted(self.settings))

    def wait_for(
        self,
        *,
        counted: int = 0,
        stored: int = 0,
        timeout_s: float = 60,
        alive: Sequence[Process] = (),
    ) -> Progress:
        """Returns when so many offsets are counted and are in history. What is `alive` must stay
        so."""

        def far_enough() -> Progress:
            self.check_alive(*alive)
            now = self.progress()
            assert now.counted >= counted and now.stored >= stored, now
            return now

        return eventually(
            far_enough, timeout_s=timeout_s, message=f"{counted} counted, {stored} stored"
        )

    def check_alive(self, *processes: Process) -> None:
        for process in processes:
            if not process.alive():
                # No AssertionError: there is nothing left to wait for.
                raise RuntimeError(f"{process.name} has ended\n{process.tail()}")

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for process in self._processes:
            if process.alive():
                process.kill()
        for path in dict.fromkeys(process.log_path for process in self._processes):
            last = path.read_text(errors="replace").splitlines()[-25:]
            print("\n".join([f"--- end of {path}", *last]))  # noqa: T201 - shown where a test fails


async def _counted(settings: Settings) -> int:
    async with open_counters(settings, timeout_s=5) as counters:
        try:
            return sum(report.next_offset for report in await counters.reports.progress())
        except StoreUnavailable:
            return -1


def _stored(settings: Settings) -> int:
    # A frozen server takes the connection and says nothing: then it does not answer.
    try:
        with psycopg.connect(settings.database_url, connect_timeout=2) as connection:
            row = connection.execute("SELECT sum(next_offset) FROM history_watermarks").fetchone()
    except psycopg.OperationalError:
        return -1
    return int(row[0] or 0) if row else 0


def read_topic(settings: Settings, topic: str) -> list[Any]:
    """All records of a topic (aiokafka's ConsumerRecord), as they are now."""
    return asyncio.run(_read_topic(settings, topic))


async def _read_topic(settings: Settings, topic: str) -> list[Any]:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=settings.brokers,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=8 * 1_048_576,
    )
    records: list[Any] = []
    async with asyncio.timeout(60), consumer:
        partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
        assert partitions, f"no topic {topic}"
        while True:
            for found in (await consumer.getmany(timeout_ms=200)).values():
                records += found
            # The end is what fetch answers say: asking for it is wrong on the embedded broker.
            ends = {tp: consumer.highwater(tp) for tp in partitions}
            read = {tp: await consumer.position(tp) for tp in partitions}
            if all(end is not None and read[tp] >= end for tp, end in ends.items()):
                return records
