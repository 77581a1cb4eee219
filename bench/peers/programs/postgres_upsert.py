"""PostgreSQL alone, by one statement per batch.

A batch of 10,000 events goes by COPY into a temporary table. One statement stores those whose
identity is new in the history, and adds them to tables of counts by day (INSERT … ON CONFLICT DO
UPDATE). The offsets change in the same transaction, so each event counts exactly once, for all
time. A thread fetches and decodes while PostgreSQL works.
"""

from __future__ import annotations

import queue
import threading
from typing import NamedTuple

import psycopg

from bench.peers.cells import Tile, distinct_actions, from_tiles
from bench.peers.programs.consuming import Days, batches, consumer, decode
from bench.peers.programs.reports import Arguments, Progress, answer, arguments, report

BATCH_EVENTS = 10_000
BATCHES_AHEAD = 3

TABLES = """
CREATE TABLE history (tenant text, id text, customer text, offer text, creative text, channel text,
    type text, at timestamptz, day int, PRIMARY KEY (tenant, id));
CREATE TABLE tiles (tenant text, grouping "char", id text, day int, type text, n bigint,
    PRIMARY KEY (tenant, grouping, id, day, type)) WITH (fillfactor = 70);
CREATE TABLE offers (tenant text, customer text, offer text, last int,
    PRIMARY KEY (tenant, customer, offer)) WITH (fillfactor = 70);
CREATE TABLE marks (partition int PRIMARY KEY, next bigint);
CREATE TEMP TABLE stage (tenant text, id text, customer text, offer text, creative text,
    channel text, type text, at timestamptz, day int) ON COMMIT DELETE ROWS
"""
COUNT = """
WITH fresh AS (
    INSERT INTO history SELECT * FROM stage ON CONFLICT DO NOTHING RETURNING *
), counted AS (
    INSERT INTO tiles
    SELECT tenant, per.grouping, per.id, day, type, count(*)
    FROM fresh, LATERAL (VALUES
        ('a'::"char", offer), ('t', creative), ('c', channel), ('u', customer)) per(grouping, id)
    GROUP BY 1, 2, 3, 4, 5
    ON CONFLICT (tenant, grouping, id, day, type) DO UPDATE SET n = tiles.n + excluded.n
), offered AS (
    INSERT INTO offers SELECT tenant, customer, offer, max(day) FROM fresh GROUP BY 1, 2, 3
    ON CONFLICT (tenant, customer, offer)
    DO UPDATE SET last = greatest(offers.last, excluded.last) WHERE offers.last < excluded.last
)
INSERT INTO marks SELECT * FROM unnest(%s::int[], %s::bigint[])
ON CONFLICT (partition) DO UPDATE SET next = excluded.next
"""
GROUPINGS = {"a": "action", "t": "treatment", "c": "channel", "u": "customer"}


class Batch(NamedTuple):
    """Rows as text for COPY, and the next offset of each partition."""

    rows: str
    marks: dict[int, int]
    events: int


def fetch(options: Arguments, fetched: queue.Queue[Batch]) -> None:
    """Fetch and decode all records into batches."""
    days = Days()
    for records in batches(consumer(options), options.events, BATCH_EVENTS):
        rows: list[str] = []
        marks: dict[int, int] = {}
        for record in records:
            event = decode(record.value())
            marks[record.partition()] = record.offset() + 1
            rows.append(
                f"{event.tenantId}\t{event.interactionId}\t{event.customerId}\t{event.offerId}"
                f"\t{event.creativeId}\t{event.channelId}\t{event.outcomeTypeKey}"
                f"\t{event.timestamp}\t{days[event.timestamp[:10]]}\n"
            )
        fetched.put(Batch("".join(rows), marks, len(records)))


def count(connection: psycopg.Connection, options: Arguments) -> None:
    """Count all events, one transaction per batch."""
    fetched: queue.Queue[Batch] = queue.Queue(BATCHES_AHEAD)
    threading.Thread(target=fetch, args=(options, fetched), daemon=True).start()
    progress = Progress(options.events)
    done = False
    while not done:
        batch = fetched.get()
        with connection.cursor() as cursor:
            with cursor.copy("COPY stage FROM STDIN") as copy:
                copy.write(batch.rows)
            cursor.execute(COUNT, (list(batch.marks), list(batch.marks.values())))
        connection.commit()
        done = progress.add(batch.events)


def cells(connection: psycopg.Connection, options: Arguments) -> dict[str, int]:
    """Return the cells, from the tables of counts."""
    rows = connection.execute("SELECT grouping::text, id, day, type, n FROM tiles")
    tiles = (Tile(GROUPINGS[code], *columns) for code, *columns in rows)
    found = from_tiles(tiles, options.today, options.sample)
    sample = list(options.sample)
    query = "SELECT customer, last FROM offers WHERE customer = ANY(%s)"
    return found | distinct_actions(connection.execute(query, (sample,)), options.today)


def main() -> None:
    options = arguments()
    with psycopg.connect(options.dsn) as connection:
        connection.execute(TABLES)
        connection.commit()
        count(connection, options)
        report("DONE")
        report("ALL")  # each batch was committed, and PostgreSQL has waited for the disk
        answer(options, cells(connection, options))


if __name__ == "__main__":
    main()
