"""Measure this project beside other systems, and write docs/benchmarks.md.

The last commit is measured, from a copy (`git archive HEAD`): later changes are not. The bench
starts and stops its own servers, on free ports of the loopback interface and on Unix sockets.
Needs Java 17 (a JDK), Maven and, for `--stores real`, Debian's Redis and PostgreSQL. The first
time, environments of Python and jars are fetched into `--work`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg
import redis

from bench.peers import environments, log, machine, topic
from bench.peers.environments import Commit, Workspace
from bench.peers.measuring import BROKER
from bench.peers.report import Context, Run, is_disturbed, page, table, unexpected
from bench.peers.runs import STORES, RunFailed, Scene, run, start_stores
from bench.peers.systems import SYSTEMS, choose
from bench.servers import ROOT, defaults
from cli.embedded.server import StackError
from store.records import StoreUnavailable
from store.settings import Settings
from tests.support.services.real import kafka_jars, kafka_version

PAGE = ROOT / "docs" / "benchmarks.md"
SAFE_S = 120
"""Events of today occurred up to this long ago: none is in the future for any clock."""
STORE_TITLES = {
    "wheels": "Valkey and PostgreSQL from wheels, on Unix sockets, as in `interaction-summary up`",
    "real": "Debian's Redis and PostgreSQL, on TCP",
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    description, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description=description, epilog=details
    )
    parser.add_argument("--list", action="store_true", help="name the systems and end")
    parser.add_argument("--compile", action="store_true", help="compile the Java peers and end")
    parser.add_argument("--only", metavar="NAME,NAME", help="measure these systems")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=400_000, help="records in the topic")
    parser.add_argument("--stores", choices=STORES, default="wheels", help="Redis and PostgreSQL")
    parser.add_argument(
        "--quiet", type=float, default=90.0, metavar="S", help="longest wait for rest before a run"
    )
    parser.add_argument(
        "--foreign",
        type=float,
        default=15.0,
        metavar="PERCENT",
        help="a run is disturbed if others take more of one processor",
    )
    parser.add_argument("--tries", type=int, default=1, help="attempts at a run that was disturbed")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="S", help="of each run")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench", help="folder for all files")
    parser.add_argument("--page", type=Path, help="write the page of results to this file")
    return parser.parse_args(arguments)


def command_of(arguments: Sequence[str]) -> str:
    """Return the command as the page shows it: without the folder of this machine."""
    shown = list(arguments)
    if "--work" in shown:
        at = shown.index("--work")
        del shown[at : at + 2]
    return shlex.join(["python", "-m", "bench.peers", *shown])


def measure(scene: Scene, names: Sequence[str], options: argparse.Namespace) -> list[Run]:
    """Run each system in turn, as many rounds as wanted; print each result as it comes."""
    runs: list[Run] = []
    for round_number in range(1, options.rounds + 1):
        for name in names:
            for _ in range(options.tries):
                done = measure_one(scene, name, round_number, options.quiet)
                line = describe(done)
                print(line, flush=True)
                with (scene.workspace.folder / "results.jsonl").open("a") as results:
                    results.write(f"{line}\n")
                topic.delete_others(scene.settings)
                runs.append(done)  # the table has no rates of disturbed runs, but their cells
                if done.outcome is None or not is_disturbed(done, options.foreign):
                    break
    return runs


def measure_one(scene: Scene, name: str, round_number: int, quiet_s: float) -> Run:
    """Wait for the machine to be at rest, and run a system once."""
    if dt.datetime.now(dt.UTC).date().toordinal() != scene.today + log.EPOCH.toordinal():
        return Run(name, round_number, False, machine.speed(), None, "the day of the log is over")
    at_rest = machine.wait_for_rest(quiet_s)
    speed = machine.speed()
    try:
        outcome = run(scene, name, SYSTEMS[name])
    except (RunFailed, StackError, StoreUnavailable, OSError) as error:
        return Run(name, round_number, at_rest, speed, None, str(error))
    return Run(name, round_number, at_rest, speed, outcome)


def describe(done: Run) -> str:
    """Return one line of JSON about a run."""
    at = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S}"
    result: dict[str, object] = {"at": at, "system": done.system, "round": done.round_number}
    result |= {"at_rest": done.at_rest, "speed": round(done.speed, 1)}
    if done.outcome is None:
        return json.dumps(result | {"error": done.error})
    measured, cells, notes = done.outcome
    result |= {
        "events_s": round(measured.events_s),
        "second_half_s": round(measured.second_half_s),
        "stored_s": round(measured.stored_s),
        "cpu_us": {process: round(us, 1) for process, us in measured.cpu_us.items()},
        "memory_mb": {process: round(size) for process, size in measured.memory_mb.items()},
        "foreign_percent": round(measured.foreign_percent),
        "stolen_percent": round(measured.stolen_percent),
        "cells": cells._asdict() if cells else None,
        "notes": notes,
    }
    return json.dumps(result)


def store_versions(workspace: Workspace, stores: str) -> tuple[str, str]:
    """Return the versions of PostgreSQL and of Redis or Valkey, from servers that run."""
    folder = workspace.folder / "run" / "versions"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    try:
        with start_stores(stores, folder) as started:
            assert started.redis is not None
            with psycopg.connect(started.postgres.url) as connection:
                row = connection.execute("SHOW server_version").fetchone()
            with redis.Redis.from_url(started.redis.url) as client:
                info = client.info("server")
        return str(row[0] if row else ""), str(info.get("valkey_version", info["redis_version"]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    options = parse()
    if options.list:
        for name, system in SYSTEMS.items():
            print(f"{name:34} {system.title}{'  (only with --only)' if system.extra else ''}")
        return
    logging.getLogger().addHandler(logging.NullHandler())  # no warnings of Kafka's clients
    # Without this, SIGTERM would end the bench at once and leave its child processes running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        workspace = Workspace(options.work)
    except BlockingIOError as error:
        raise SystemExit(f"{options.work} is in use by another bench") from error
    if options.compile:
        environments.compile_all(workspace)
        return
    try:
        names = choose(options.only)
        commit = environments.last_commit()
        environments.prepare(workspace, [SYSTEMS[name] for name in names], commit)
        began_s = time.monotonic()
        runs, context = bench(workspace, names, options, commit)
    except (ValueError, StackError) as error:
        raise SystemExit(str(error)) from error
    print(table(runs, options.foreign))
    if options.page:
        context = context._replace(minutes=(time.monotonic() - began_s) / 60)
        options.page.write_text(page(runs, context))
    if failures := unexpected(runs):
        raise SystemExit("\n".join(failures))


def bench(
    workspace: Workspace, names: Sequence[str], options: argparse.Namespace, commit: Commit
) -> tuple[list[Run], Context]:
    """Make the log, start the broker, and measure."""
    now = dt.datetime.now(dt.UTC)
    since_midnight_s = int((now - now.replace(hour=0, minute=0, second=0)).total_seconds())
    recipe = log.Recipe(options.events, now.date(), max(60, since_midnight_s - SAFE_S))
    made = log.make(recipe)
    postgres, valkey = store_versions(workspace, options.stores)
    folder = workspace.folder / BROKER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    kafka = topic.BenchKafka(folder, kafka_jars())
    try:
        kafka.start()
        assert kafka.pid is not None
        settings = Settings(**{**defaults(), "kafka_bootstrap_servers": kafka.bootstrap})
        topic.fill(settings, made.records)
        scene = Scene(
            workspace, settings, kafka.pid, made, recipe.today, options.stores, options.timeout
        )
        print(f"{options.events} records, {len(made.cells)} cells", flush=True)
        runs = measure(scene, names, options)
    finally:
        kafka.stop(30)
        shutil.rmtree(folder, ignore_errors=True)
    context = Context(
        date=f"{now:%Y-%m-%d %H:%M} UTC",
        machine=machine.describe(),
        command=command_of(sys.argv[1:]),
        commit=str(commit),
        stores=STORE_TITLES[options.stores],
        versions=environments.versions(postgres, valkey, kafka_version()),
        events=options.events,
        distinct=made.distinct,
        customers=recipe.customers,
        rounds=options.rounds,
        foreign_max=options.foreign,
        minutes=0.0,
    )
    return runs, context


if __name__ == "__main__":
    main()
