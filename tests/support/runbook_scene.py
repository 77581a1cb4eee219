"""A worker, an API and its readers, for the cases of the runbook.

A reader asks the API all the time. Each answer that claims to be complete must be exact.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import redis
from aiokafka import AIOKafkaProducer
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from store.records import GROUPINGS, Event
from store.settings import Settings
from tests.support import expected
from tests.support.events import encode, make_event
from tests.support.program import Process, Program, read_topic
from tests.support.runbook import Guide, following
from tests.support.services.base import Services
from tests.support.waiting import TIMEOUT_S, eventually
from tests.support.worker_fixture import now_ms

TENANT = "acme"
OUTCOMES = ("impression", "impression", "click", "convert")
#: Not registered by the system.
OWN_TYPE = "saved_for_later"
ALL_DAYS = 3650


def some_events(n: int, **fields: Any) -> list[Event]:
    """Return `n` new events of today, of 20 customers and 7 offers."""
    return [
        make_event(
            **{
                "customer": f"C-{i % 20}",
                "offer": f"off_{i % 7}",
                "creative": f"cr_{i % 3}",
                "outcome": OUTCOMES[i % 4],
                "occurred_ms": now_ms(),
                **fields,
            }
        )
        for i in range(n)
    ]


class Scene:
    """The running program, and the events that its answers must hold."""

    def __init__(self, settings: Settings, services: Services, folder: Path) -> None:
        self.settings, self.services = settings, services
        self.retired = False
        """Whether the next case needs another scene: the last one failed, or left wrong events."""
        self.program = Program(settings, folder)
        self.worker: Process = self.program.worker()
        self.api = self.program.api()
        self.redis: Any = redis.Redis.from_url(settings.redis_url)
        self.counted: list[Event] = []
        self._payloads: list[dict[str, Any]] = []
        self.catalog: dict[str, Any] = {}
        self.wrong: list[str] = []
        self._settled = False
        self._dead_letters = 0
        self._log_mark = 0
        self._folder = folder

    @contextmanager
    def case(self, section: str, **env: str) -> Iterator[Guide]:
        """Yield the guide of the section, while a reader asks. `env` is added to its settings."""
        self._log_mark = len(self.worker.log())
        with following(section, self.program.env | env, self._folder) as guide:
            with self.reading():
                yield guide
            assert not self.wrong, self.wrong[:3]
        self.retired = False

    def retire(self) -> None:
        """Let the next case begin with another scene."""
        self.retired = True

    def write_catalog(self, **parts: Any) -> None:
        """Write the file that the runbook imports, and let the answers use it."""
        self.catalog = {"tenant": TENANT, **self.catalog, **parts}
        (self._folder / "acme.json").write_text(json.dumps(self.catalog))

    def send(
        self, events: Sequence[Event], *, counts: bool = True, partition: int | None = None
    ) -> None:
        """Send events; `counts`: the answers must hold them from now on.

        Readers are not judged until `wait_exact`, because the lag is reported twice a second.
        """
        self._settled = False
        asyncio.run(_send(self.settings, events, partition))
        if counts:
            self.will_count(events)

    def wait_exact(
        self, source: str = "materialized", *, unstored: int = 0, timeout_s: float = TIMEOUT_S
    ) -> None:
        """Wait until `source` answers every grouping exactly, and history has the same events.

        `unstored`: events that history lacks.
        """

        def exact() -> bool:
            self.program.check_alive(self.worker)
            for group_by in GROUPINGS:
                answer = self.ask(self.api.client, group_by)
                assert answer.headers.get("X-Summary-Source") == source, answer.headers
                found, wanted = answer.json(), self.expected(group_by)
                assert found == wanted, (group_by, found["summary"][:2], wanted["summary"][:2])
            assert self.stored() == len(self.counted) - unstored, self.stored()
            return True

        eventually(exact, timeout_s=timeout_s, message=f"{source} answers exactly")
        self._settled = True

    def lose(self) -> None:
        """Do not judge readers until `wait_exact`: the runbook says that answers are wrong now."""
        self._settled = False

    def stop_worker(self) -> None:
        assert self.worker.terminate() == 0
        self._settled = False

    def start_worker(self) -> None:
        self.worker = self.program.worker()
        self._log_mark = 0

    def will_count(self, events: Iterable[Event]) -> None:
        """Let the answers hold the events from now on; see `send`."""
        self._settled = False
        self.counted += events

    def retract(self, events: Iterable[Event]) -> None:
        """Let the answers hold the events no more; readers are not judged until `wait_exact`."""
        self._settled = False
        gone = {event.event_id for event in events}
        self.counted = [event for event in self.counted if event.event_id not in gone]
        self._payloads = []

    def ask(self, client: httpx.Client, group_by: str) -> httpx.Response:
        return client.get(
            "/api/v1/interaction-summary",
            params={"groupBy": group_by, "days": ALL_DAYS},
            headers={"X-Tenant-Id": TENANT},
        )

    def expected(self, group_by: str) -> dict[str, Any]:
        """Return the body that holds exactly the events that must be counted."""
        for event in self.counted[len(self._payloads) :]:
            self._payloads.append(json.loads(encode(event))["payload"])
        payloads = self._payloads
        groups = expected.count(payloads, group_by, ALL_DAYS, datetime.now(UTC).date())
        return expected.body(groups, group_by, ALL_DAYS, self.catalog, limit=100, offset=0)

    def stored(self) -> int:
        return int(self.sql("SELECT count(*) FROM interaction_history")[0][0])

    def sql(self, query: str, *parameters: object) -> list[Any]:
        with psycopg.connect(self.settings.database_url) as connection:
            cursor = connection.execute(query.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def forget_beginning(self) -> None:
        """Let the first rows of history come from another topic, which does not exist any more."""
        other = str(uuid.uuid4())
        moved = self.sql(
            "UPDATE interaction_history SET source_log = %s WHERE source_offset < 20 "
            "RETURNING source_partition",
            other,
        )
        assert moved
        self.sql(
            "INSERT INTO history_watermarks (log, partition, topic, next_offset) "
            "SELECT %s, partition, 'older', 20 FROM unnest(%s::integer[]) AS x (partition)",
            other,
            sorted({partition for (partition,) in moved}),
        )

    def copy_redis(self) -> Path:
        """Return a copy of the files of Redis, as a backup."""
        folder = self._redis_folder()
        backup = folder.with_name("backup")
        self.services.redis.stop()
        shutil.copytree(folder, backup)
        self.services.redis.start()
        return backup

    def restore_redis(self, backup: Path) -> None:
        """Replace the files of Redis. Readers are not judged until `wait_exact`.

        For about a second the old counters answer, as the runbook says.
        """
        self._settled = False
        folder = self._redis_folder()
        self.services.redis.stop()
        shutil.rmtree(folder)
        backup.rename(folder)
        self.services.redis.start()

    def _redis_folder(self) -> Path:
        return Path(self.redis.config_get("dir")["dir"]) / "appendonlydir"

    def copy_database(self, name: str) -> None:
        """Make a copy of the database, as a backup, while nobody is connected to it."""
        with self._alone() as (connection, own):
            connection.execute(f"CREATE DATABASE {own}_{name} TEMPLATE {own}".encode())

    def restore_database(self, name: str) -> None:
        """Replace the database by the copy."""
        with self._alone() as (connection, own):
            connection.execute(f"DROP DATABASE {own} WITH (FORCE)".encode())
            connection.execute(f"CREATE DATABASE {own} TEMPLATE {own}_{name}".encode())

    def database_url(self, name: str) -> str:
        """Return the URL of the copy."""
        own = conninfo_to_dict(self.settings.database_url)["dbname"]
        return make_conninfo(self.settings.database_url, dbname=f"{own}_{name}")

    @contextmanager
    def _alone(self) -> Iterator[tuple[psycopg.Connection[Any], str]]:
        """Yield a connection to another database, and the name of ours, which refuses others."""
        own = conninfo_to_dict(self.settings.database_url)["dbname"]
        with psycopg.connect(self.services.postgres.url, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {own} ALLOW_CONNECTIONS false".encode())
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [own]
            )
            try:
                yield connection, str(own)
            finally:
                connection.execute(f"ALTER DATABASE {own} ALLOW_CONNECTIONS true".encode())

    def wait_logged(self, text: str) -> None:
        """Wait for a log line of the case: since it began."""
        eventually(
            lambda: text in self.worker.log()[self._log_mark :],
            message=f"a log line with {text!r}",
        )

    def wait_dead_letters(self, n: int) -> None:
        """Wait until the dead-letter topic has `n` more records than at the last call."""
        self._dead_letters += n
        topic = self.settings.dead_letter_topic

        def arrived() -> bool:
            return len(read_topic(self.settings, topic)) >= self._dead_letters

        eventually(arrived, message=f"{n} dead letters")

    def status(self) -> Any:
        return json.loads(self.program.run("status", "--json"))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Ask meanwhile, and note each answer that claims to be complete and is not exact."""
        end = threading.Event()
        thread = threading.Thread(target=self._read_until, args=(end,))
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def _read_until(self, end: threading.Event) -> None:
        with httpx.Client(base_url=self.api.client.base_url, timeout=30) as client:
            while not end.wait(0.1):
                settled = self._settled
                answer = self.ask(client, "action")
                if settled and self._settled and claims_complete(answer):
                    found = sum(row["total"] for row in answer.json()["summary"])
                    if found != len(self.counted):
                        self.wrong.append(f"{found}, not {len(self.counted)}: {answer.headers}")

    def close(self) -> None:
        self.redis.close()
        self.program.close()


def claims_complete(answer: httpx.Response) -> bool:
    """Return whether an answer is from the counters and says that nothing is missing."""
    headers = answer.headers
    return (
        answer.status_code == 200
        and headers["X-Summary-Source"] == "materialized"
        and headers.get("X-Summary-Lag") == "0"
    )


async def _send(settings: Settings, events: Iterable[Event], partition: int | None) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.brokers, acks="all")
    await producer.start()
    try:
        sent = [
            await producer.send(
                settings.interactions_topic,
                encode(event),
                key=event.customer.encode(),
                partition=partition,
            )
            for event in events
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
