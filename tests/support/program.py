"""The program as users run it: commands as processes, requests over HTTP, records read back.

Only the progress of the stores is read directly: a loop of `status` commands would take the
processor from the worker that it watches.
"""

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

from cli.embedded.child_process import ChildProcess
from cli.embedded.server import free_port
from store.records import StoreUnavailable
from store.redis.counters import open_counters
from store.settings import Settings
from tests.support.topics import read_records
from tests.support.waiting import TIMEOUT_S, eventually

PROGRAM = Path(sysconfig.get_path("scripts")) / "interaction-summary"
#: The longest time that a stop may take, by the contract.
STOP_S = 10.0


class Process:
    """A command that runs until it is stopped, in its own process group; logs to `log_path`."""

    def __init__(self, arguments: Sequence[str], env: dict[str, str], log_path: Path) -> None:
        self.name = log_path.stem
        self.log_path = log_path
        self._process = ChildProcess(
            [str(PROGRAM), *arguments],
            environment=env,
            log_path=log_path,
            working_dir=log_path.parent,
        )
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.is_running()

    def kill(self) -> None:
        """End the process by SIGKILL, so that it cannot finish anything."""
        self._process.kill()

    def signal(self, which: signal.Signals) -> None:
        self._process.send_signal(which)

    def interrupt(self) -> None:
        """Send SIGINT to the whole process group, as a terminal does on Ctrl-C."""
        os.killpg(self.pid, signal.SIGINT)

    def wait(self, timeout_s: float) -> int:
        """Return the exit code. Raise AssertionError if the process runs after `timeout_s`."""
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
        """Return the output of this process, without that of an earlier one of the same name."""
        return self._process.log()

    def tail(self, lines: int = 25) -> str:
        return "\n".join([f"--- end of {self.log_path}", *self.log().splitlines()[-lines:]])


class Api(NamedTuple):
    """A running API and an HTTP client for it."""

    process: Process
    client: httpx.Client

    def summary(self, tenant: str, **parameters: Any) -> httpx.Response:
        response = self.client.get(
            "/api/v1/interaction-summary", params=parameters, headers={"X-Tenant-Id": tenant}
        )
        assert response.status_code == 200, f"{response.text}\n{self.process.tail()}"
        return response


class Progress(NamedTuple):
    """Sums of the watermarks of all partitions, of the counters and of history.

    -1: the store does not answer.
    """

    counted: int
    stored: int


class Program:
    """Runs commands with given settings, and ends those that still run when it is closed."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        values = settings.model_dump() | {"kafka_session_timeout_s": 6}
        self.env = os.environ | {name.upper(): str(value) for name, value in values.items()}
        self._processes: list[Process] = []
        self._clients: list[httpx.Client] = []

    def run(self, *arguments: str, stdin: bytes = b"", timeout_s: float = 120) -> str:
        """Run a command that must succeed, and return its standard output."""
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
        """Start a worker. With the name of an earlier one it gets the same partitions."""
        return self.start(name, "worker", WORKER_INSTANCE_ID=name, **env)

    def api(self) -> Api:
        """Start an API on a free port, and return when it is ready."""
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

        eventually(ready, message="the API is ready")
        return Api(process, client)

    def progress(self) -> Progress:
        return Progress(self.counted(), _stored(self.settings))

    def counted(self) -> int:
        """Return the progress that the workers reported last; they report twice a second."""
        return asyncio.run(_counted(self.settings))

    def wait_for(
        self,
        *,
        counted: int = 0,
        stored: int = 0,
        timeout_s: float = TIMEOUT_S,
        alive: Sequence[Process] = (),
    ) -> Progress:
        """Return when so many offsets are counted and stored in history.

        `alive`: processes that must not end meanwhile.
        """

        def reached() -> Progress:
            self.check_alive(*alive)
            now = self.progress()
            assert now.counted >= counted and now.stored >= stored, now
            return now

        return eventually(
            reached, timeout_s=timeout_s, message=f"{counted} counted, {stored} stored"
        )

    def check_alive(self, *processes: Process) -> None:
        for process in processes:
            if not process.alive():
                # No AssertionError, which `eventually` would take for "not yet".
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
    # A frozen server accepts the connection and never answers; hence the timeout.
    try:
        with psycopg.connect(settings.database_url, connect_timeout=2) as connection:
            row = connection.execute("SELECT sum(next_offset) FROM history_watermarks").fetchone()
    except psycopg.OperationalError:
        return -1
    return int(row[0] or 0) if row else 0


def read_topic(settings: Settings, topic: str) -> list[Any]:
    """Return all present records of a topic (aiokafka's ConsumerRecord)."""
    by_partition = asyncio.run(read_records(settings, topic))
    return [record for records in by_partition.values() for record in records]
