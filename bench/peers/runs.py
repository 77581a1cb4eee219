"""One run of a system: start it, measure it, ask for its cells, stop it."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import redis

from bench.peers.cells import GROUPINGS, PERIODS, Comparison, compare
from bench.peers.environments import Workspace, program_environment
from bench.peers.log import TENANT, Log
from bench.peers.measuring import BROKER, Measured, Meter
from bench.peers.systems import Kind, System
from bench.servers import ROOT, environment
from cli.embedded.child_process import ChildProcess, tail
from cli.embedded.server import HOST, Server, free_port
from cli.embedded.servers import Postgres, Valkey
from store.redis.keys import Keys
from store.settings import Settings
from tests.support.services.real import RealPostgres, RealRedis, needed, postgres_programs

#: Sources of Redis and PostgreSQL: wheels, on Unix sockets as in `up`, or Debian's packages.
STORES = ("wheels", "real")
REPORTS = ("FIRST", "HALF", "DONE", "ALL", "ANSWERED")
POLL_S = 0.01
RANKS_POLL_S = 1.0  # history answers meanwhile, which takes most of a second
STOCK_S = 30.0
"""The stock agent is measured for this long: it would take minutes for the log."""
PAGE = 500
ALLTIME_DAYS = 365
STOP_S = 15.0


class RunFailed(Exception):
    """A system ended, or took longer than the timeout."""


class Outcome(NamedTuple):
    """Result of one run."""

    measured: Measured
    cells: Comparison | None
    """None if the system's cells are not compared."""
    notes: tuple[str, ...] = ()


class Scene(NamedTuple):
    """What all runs have in common."""

    workspace: Workspace
    settings: Settings
    """Addresses of Kafka and names of topics; the stores' are those of a run."""
    broker_pid: int
    log: Log
    today: int
    stores: str
    """One of STORES."""
    timeout_s: float

    @property
    def events(self) -> int:
        return len(self.log.records)


class Stores(NamedTuple):
    """Redis and PostgreSQL of one run."""

    redis: Valkey | None
    postgres: Postgres

    @property
    def pids(self) -> dict[str, int]:
        servers: list[Server] = [self.postgres, *([self.redis] if self.redis else [])]
        return {server.name: server.pid for server in servers if server.pid is not None}


def run(scene: Scene, name: str, system: System) -> Outcome:
    """Run a system once. Raises RunFailed or StackError."""
    folder = scene.workspace.folder / "run" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder.chmod(0o755)  # PostgreSQL may have to run as a user of its own
    try:
        if system.kind is Kind.OURS:
            return _run_ours(scene, system, folder)
        if system.kind is Kind.STOCK:
            return _run_stock(scene, folder)
        return _run_peer(scene, system, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def start_stores(kind: str, folder: Path, *, redis: bool = True) -> Iterator[Stores]:
    """Start empty stores of one of STORES, and stop them at the end. Raises StackError."""
    if kind == "real":
        program = needed("redis-server", "redis-server") if redis else None
        stores = Stores(
            RealRedis(None, folder, program=program) if redis else None,
            RealPostgres(folder, None, durable=True, programs=postgres_programs()),
        )
    else:
        stores = Stores(Valkey(folder) if redis else None, Postgres(folder))
    servers: list[Server] = [stores.postgres, *([stores.redis] if stores.redis else [])]
    try:
        for server in servers:
            server.start()
        yield stores
    finally:
        for server in servers:
            server.stop(30)


@contextlib.contextmanager
def _process(
    command: list[str], variables: dict[str, str], log_path: Path, working_dir: Path
) -> Iterator[ChildProcess]:
    child = ChildProcess(
        command,
        environment=variables,
        log_path=log_path,
        working_dir=working_dir,
        ends_with_parent=True,
    )
    child.start()
    try:
        yield child
    finally:
        child.stop(STOP_S)


def _check(child: ChildProcess, deadline_s: float) -> None:
    """Raise RunFailed if the process has ended or the time is over."""
    if not child.is_running():
        raise RunFailed(f"ended with exit code {child.exit_code()}:\n{tail(child.log_path)}")
    if time.monotonic() > deadline_s:
        raise RunFailed(f"not finished in time:\n{tail(child.log_path)}")


# --- peers that report ----------------------------------------------------------------------------


def _run_peer(scene: Scene, system: System, folder: Path) -> Outcome:
    with contextlib.ExitStack() as stack:
        postgres = None
        if system.postgres:
            postgres = stack.enter_context(start_stores(scene.stores, folder, redis=False)).postgres
        command = _peer_command(scene, system, folder, postgres.url if postgres else "")
        variables = program_environment()
        child = stack.enter_context(_process(command, variables, folder / "peer.log", folder))
        pids = {"peer": child.pid, BROKER: scene.broker_pid}
        if postgres is not None and postgres.pid is not None:
            pids["postgres"] = postgres.pid
        meter = Meter(pids)
        result, notes = _follow(child, meter, scene)
        cells = json.loads((folder / "cells.json").read_text())
        return Outcome(result, compare(scene.log.cells, cells), notes)


def _peer_command(scene: Scene, system: System, folder: Path, dsn: str) -> list[str]:
    if system.kind is Kind.JAVA:
        start = [*scene.workspace.java(system.environment), system.program]
    else:
        module = f"bench.peers.programs.{system.program}"
        start = [str(scene.workspace.python(system.environment)), "-m", module]
    sample = folder / "sample.txt"
    sample.write_text("\n".join(scene.log.sample))
    values = {
        "bootstrap": scene.settings.kafka_bootstrap_servers,
        "topic": scene.settings.interactions_topic,
        "events": scene.events,
        "distinct": scene.log.distinct,
        "today": scene.today,
        "sample": sample,
        "cells": folder / "cells.json",
        "folder": folder / "state",
        "mode": system.mode,
        "dsn": dsn,
    }
    return [*start, *(text for name, value in values.items() for text in (f"--{name}", str(value)))]


def _follow(child: ChildProcess, meter: Meter, scene: Scene) -> tuple[Measured, tuple[str, ...]]:
    """Mark each report of a peer, until its cells are written."""
    deadline_s = time.monotonic() + scene.timeout_s
    notes: list[str] = []
    result: Measured | None = None
    with child.log_path.open() as log:
        unfinished = ""
        while True:
            was_running = child.is_running()  # what it wrote before its end is read below
            *lines, unfinished = (unfinished + log.read()).split("\n")
            for line in lines:
                if line.startswith("NOTE "):
                    notes.append(line.removeprefix("NOTE "))
                elif line in REPORTS:
                    meter.mark(line)
                    if line in ("DONE", "ALL"):
                        result = meter.result(scene.events)
            if "ANSWERED" in meter.marks:
                break
            if not lines:
                if not was_running or time.monotonic() > deadline_s:
                    _check(child, deadline_s)
                time.sleep(POLL_S)
    if result is None:
        raise RunFailed(f"answered without counting all:\n{tail(child.log_path)}")
    return result, tuple(notes)


# --- ours -----------------------------------------------------------------------------------------


def _variables(scene: Scene, stores: Stores, group: str) -> dict[str, str]:
    assert stores.redis is not None
    return environment() | {
        "KAFKA_BOOTSTRAP_SERVERS": scene.settings.kafka_bootstrap_servers,
        "REDIS_URL": stores.redis.url,
        "DATABASE_URL": stores.postgres.url,
        "AUTH_MODE": "open",
        "LOG_LEVEL": "WARNING",
        "CONSUMER_GROUP": f"{group}-{time.time_ns()}",
    }


def _run_ours(scene: Scene, system: System, folder: Path) -> Outcome:
    ours = [sys.executable, "-m", "cli.main"]
    checkout = scene.workspace.checkout
    with contextlib.ExitStack() as stack:
        stores = stack.enter_context(start_stores(scene.stores, folder))
        variables = _variables(scene, stores, "ours") | dict(system.settings)
        with _process([*ours, "migrate"], variables, folder / "migrate.log", checkout) as migrate:
            if migrate.wait(60):
                raise RunFailed(f"migrate failed:\n{tail(migrate.log_path)}")
        workers = [
            stack.enter_context(
                _process([*ours, "worker"], variables, folder / f"worker{number}.log", checkout)
            )
            for number in range(system.workers)
        ]
        pids = {f"worker {number + 1}": worker.pid for number, worker in enumerate(workers)}
        meter = Meter(pids | stores.pids | {BROKER: scene.broker_pid})
        first = _follow_stores(scene, stores, meter, workers)
        result = meter.result(scene.events - first)
        port = free_port()
        command = [*ours, "api", "--port", str(port)]
        api = stack.enter_context(_process(command, variables, folder / "api.log", checkout))
        cells, sources = _cells_of_api(scene, api, port)
        notes = (f"answers by {', '.join(sorted(sources))}",)
        return Outcome(result, compare(scene.log.cells, cells), notes)


def _follow_stores(scene: Scene, stores: Stores, meter: Meter, workers: list[ChildProcess]) -> int:
    """Mark when events are counted and stored; return the number counted at the first mark."""
    assert stores.redis is not None
    deadline_s = time.monotonic() + scene.timeout_s
    meta = Keys(scene.settings.redis_prefix).meta(TENANT, 1)
    client = redis.Redis.from_url(stores.redis.url)
    with client, psycopg.connect(stores.postgres.url, autocommit=True) as connection:

        def counted() -> int:
            fields: Any = client.hgetall(meta)
            return sum(int(value) for name, value in fields.items() if name.startswith(b"w:"))

        def stored() -> int:
            query = "SELECT coalesce(sum(next_offset), 0)::bigint FROM history_watermarks"
            return int(connection.execute(query).fetchone()[0])  # type: ignore[index]

        def wait(count: Callable[[], int], wanted: int) -> int:
            while (reached := count()) < wanted:
                for worker in workers:
                    _check(worker, deadline_s)
                time.sleep(POLL_S)
            return reached

        first = wait(counted, 1)
        if first >= scene.events:
            raise RunFailed("all events were counted between two polls: increase --events")
        meter.mark("FIRST")
        wait(counted, scene.events // 2)
        meter.mark("HALF")
        wait(counted, scene.events)
        meter.mark("DONE")
        wait(stored, scene.events)
        meter.mark("ALL")
        return first


def _cells_of_api(scene: Scene, api: ChildProcess, port: int) -> tuple[dict[str, int], set[str]]:
    """Return all cells as the API answers them, and the sources of its answers.

    Waits until workers have built the ranks that are asked for here.
    """
    deadline_s = time.monotonic() + scene.timeout_s
    client = Client(port)
    while not client.is_up():
        _check(api, deadline_s)
        time.sleep(POLL_S)
    # Nobody has asked about customers until now, so most of their ranks are not kept.
    for days in PERIODS.values():
        while next(client.pages("customer", min(days, ALLTIME_DAYS)))[1] != "materialized":
            _check(api, deadline_s)
            time.sleep(RANKS_POLL_S)
    cells: dict[str, int] = {}
    sources: set[str] = set()
    sample = set(scene.log.sample)
    for period, days in PERIODS.items():
        for grouping in GROUPINGS:
            for body, source in client.pages(grouping, min(days, ALLTIME_DAYS)):
                sources.add(source)
                cells[f"groups|{grouping}|{period}"] = body["total"]
                for row in body["summary"]:
                    if grouping != "customer":
                        cells |= _row_cells(f"{grouping}|{period}|{row['id']}", row)
                    elif (customer := row["customerId"]) in sample:
                        cells |= _row_cells(f"{grouping}|{period}|{customer}", row)
                        cells[f"unique|{period}|{customer}"] = row["uniqueActions"]
    return cells, sources


def _row_cells(prefix: str, row: dict[str, Any]) -> dict[str, int]:
    outcomes = ("impression", "click", "dismiss", "accept", "convert")
    return {f"{prefix}|{outcome}": row[outcome] for outcome in outcomes}


class Client:
    """Client of our API, on one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=60)

    def is_up(self) -> bool:
        """Return whether the API answers."""
        try:
            self._connection.request("GET", "/healthz")
            return self._connection.getresponse().read() != b""
        except OSError:
            self._connection.close()
            return False

    def pages(self, grouping: str, days: int) -> Iterator[tuple[dict[str, Any], str]]:
        """Yield the bodies of all pages, and the source of each."""
        offset, total = 0, 1
        while offset < total:
            query = f"groupBy={grouping}&days={days}&limit={PAGE}&offset={offset}"
            path = f"/api/v1/interaction-summary?{query}"
            self._connection.request("GET", path, headers={"X-Tenant-Id": TENANT})
            response = self._connection.getresponse()
            text = response.read()
            if response.status != http.client.OK:
                raise RunFailed(f"GET {path}: {response.status} {text[:200]!r}")
            body = json.loads(text)
            yield body, response.headers["X-Summary-Source"]
            total, offset = body["total"], offset + PAGE


# --- the stock agent ------------------------------------------------------------------------------


def _run_stock(scene: Scene, folder: Path) -> Outcome:
    prefix = "stock"
    module = "bench.peers.programs.stock_agent"
    command = [sys.executable, "-m", module, "worker", "-l", "error"]
    with start_stores(scene.stores, folder) as stores:
        variables = _variables(scene, stores, prefix) | {
            "REDIS_PREFIX": prefix,
            "INTERACTIONS_TOPIC": scene.settings.interactions_topic,
        }
        assert stores.redis is not None
        client = redis.Redis.from_url(stores.redis.url)
        with client, _process(command, variables, folder / "stock.log", ROOT) as agent:

            def counted() -> int:
                value: Any = client.get(f"{prefix}:counted")
                return int(value or 0)

            deadline_s = time.monotonic() + scene.timeout_s
            while not (first := counted()):
                _check(agent, deadline_s)
                time.sleep(POLL_S)
            redis_pid = {name: pid for name, pid in stores.pids.items() if name != "postgres"}
            meter = Meter({"worker": agent.pid} | redis_pid | {BROKER: scene.broker_pid})
            meter.mark("FIRST")
            end_s = time.monotonic() + STOCK_S
            while counted() < scene.events and time.monotonic() < end_s:
                _check(agent, deadline_s)
                time.sleep(POLL_S)
            events = counted() - first
            meter.mark("DONE")
            note = f"{events} events in {STOCK_S:.0f} s at most; cells not compared"
            return Outcome(meter.result(events), None, (note,))
