"""Events per second of the worker, beside a stock Faust agent on the same topic in the same run.

    python -m bench.ingest [--events 100000] [--rounds 3] [--json]

The worker is measured as it ships: exact counters, ranks, identities, and history in Postgres. The
time runs from the first event counted to the last, so start and group join are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
import redis
from aiokafka import AIOKafkaProducer

from cli.migrate import migrate_topics
from cli.stack import Stack
from store.postgres.migrate import migrate
from store.settings import Settings
from streams.synthetic import Traffic

ROOT = Path(__file__).parent.parent
DEADLINE_S = 600.0


async def produce(settings: Settings, events: int, customers: int) -> int:
    """Fills the topic, once for all rounds; returns how many records it holds."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.brokers, acks="all", linger_ms=20)
    traffic = Traffic(seed=1, customers=customers, tenants=("acme",))
    await producer.start()
    now_ms = time.time_ns() // 1_000_000
    try:
        for first in range(0, events, 2_000):
            sent = []
            for _ in range(min(2_000, events - first)):
                record = traffic.record(now_ms)
                sent.append(
                    await producer.send(settings.interactions_topic, record.value, key=record.key)
                )
            await asyncio.gather(*sent)
    finally:
        await producer.stop()
    return events


def measure(
    command: list[str], env: Mapping[str, str], counted: Callable[[], int], events: int, log: Path
) -> float:
    """Runs the process until all is counted; events per second."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(env), stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
    try:
        first_s, first_n = 0.0, 0
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:
            n, now_s = counted(), time.monotonic()
            if n and not first_n:
                first_s, first_n = now_s, n
            if n >= events:
                return (n - first_n) / (now_s - first_s)
            if process.poll() is not None:
                raise SystemExit(f"{command} ended:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)
        raise SystemExit(f"{command}: not done in {DEADLINE_S} s")
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--customers", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-ingest-"))
    folder.chmod(0o755)
    results: list[tuple[float, float]] = []
    with Stack(folder) as stack:
        base = os.environ | stack.environment() | {"KAFKA_SESSION_TIMEOUT_S": "10"}
        settings = Settings(
            kafka_bootstrap_servers=base["KAFKA_BOOTSTRAP_SERVERS"],
            redis_url=base["REDIS_URL"],
            database_url=base["DATABASE_URL"],
        )
        migrate_topics(settings)
        events = asyncio.run(produce(settings, options.events, options.customers))
        client = redis.Redis.from_url(settings.redis_url)
        for n in range(options.rounds):
            client.flushall()
            env = base | {"INTERACTIONS_TOPIC": settings.interactions_topic}
            stock = measure(
                [sys.executable, "-m", "bench.stock_agent", "worker", "-l", "error"],
                env | {"CONSUMER_GROUP": f"stock-{n}", "REDIS_PREFIX": "stock"},
                lambda: int(client.get("stock:counted") or 0),  # type: ignore[arg-type]
                events,
                folder / f"stock-{n}.log",
            )
            client.flushall()
            with psycopg.connect(settings.database_url, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE bench_{n}".encode())
            database = settings.database_url.rpartition("/")[0] + f"/bench_{n}"
            asyncio.run(migrate(database))

            def counted() -> int:
                marks = client.hgetall("is:progress").values()  # type: ignore[union-attr]
                return sum(int(mark.split(b",")[0]) for mark in marks)

            ours = measure(
                [sys.executable, "-m", "cli.main", "worker"],
                env | {"CONSUMER_GROUP": f"ours-{n}", "DATABASE_URL": database},
                counted,
                events,
                folder / f"worker-{n}.log",
            )
            results.append((stock, ours))
            if not options.json:
                print(
                    f"round {n + 1}: stock agent {stock:8.0f} events/s   worker {ours:8.0f} "
                    f"events/s   ratio {ours / stock:4.1f}",
                    flush=True,
                )
    ratio = statistics.median(ours / stock for stock, ours in results)
    if options.json:
        print(json.dumps({"rounds": results, "ratio": ratio}))
    else:
        print(f"median ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
