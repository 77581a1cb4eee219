"""ClickHouse in the process (chdb), fed by batches through a file in memory.

--mode dedup   a table of events and materialized views that count; events whose identity is in a
               table of identities, or twice in the batch, are left out
--mode plain   the same without identities: copies count
--mode raw     the table of events only; identities and counts are computed by each query
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from chdb import session

from bench.peers.cells import PERIODS
from bench.peers.programs.consuming import batches, consumer
from bench.peers.programs.reports import Arguments, Progress, answer, arguments, report

BATCH_EVENTS = 40_000
LOW = "LowCardinality(String)"
COLUMNS = "interactionId, tenantId, customerId, offerId, creativeId, channelId, outcomeTypeKey"
SCHEMA = ", ".join(f"{name} String" for name in (*COLUMNS.split(", "), "timestamp"))
GROUPINGS = {
    "action": "offerId",
    "treatment": "creativeId",
    "channel": "channelId",
    "customer": "customerId",
}
EVENTS = f"""
CREATE TABLE p.events (interactionId String, tenantId {LOW}, customerId String, offerId {LOW},
    creativeId {LOW}, channelId {LOW}, outcomeTypeKey {LOW}, timestamp DateTime64(3, 'UTC'),
    day Date) ENGINE = MergeTree ORDER BY (tenantId, day, customerId)
"""
DISTINCT_EVENTS = "(SELECT * FROM p.events LIMIT 1 BY tenantId, interactionId)"


class Tables:
    """The tables of one run."""

    def __init__(self, folder: Path, mode: str) -> None:
        self._session = session.Session(str(folder))
        self._mode = mode
        self._file = Path("/dev/shm") / f"peer-{os.getpid()}.jsonl"  # noqa: S108 (no disk)
        self._run("CREATE DATABASE p ENGINE = Atomic")
        self._run(EVENTS)
        if mode != "raw":
            self._create_counts()
        if mode == "dedup":
            self._run("CREATE TABLE p.seen (hash UInt64) ENGINE = Set")

    def _run(self, sql: str) -> None:
        self._session.query(sql)

    def _rows(self, sql: str) -> list[list[str]]:
        text: str = self._session.query(sql, "TSV").data()
        return [line.split("\t") for line in text.splitlines()]

    def _create_counts(self) -> None:
        for grouping, column in GROUPINGS.items():
            kind = "String" if grouping == "customer" else LOW
            self._run(
                f"CREATE TABLE p.{grouping} (tenantId {LOW}, id {kind}, day Date, type {LOW},"
                " n UInt64) ENGINE = SummingMergeTree(n) ORDER BY (tenantId, id, day, type)"
            )
            self._run(
                f"CREATE MATERIALIZED VIEW p.{grouping}_view TO p.{grouping} AS SELECT tenantId,"  # noqa: S608
                f" {column} AS id, day, outcomeTypeKey AS type, count() AS n FROM p.events"
                " GROUP BY tenantId, id, day, type"
            )
        self._run(
            f"CREATE TABLE p.offers (tenantId {LOW}, customerId String, offerId {LOW},"
            " last SimpleAggregateFunction(max, Date)) ENGINE = AggregatingMergeTree"
            " ORDER BY (tenantId, customerId, offerId)"
        )
        self._run(
            "CREATE MATERIALIZED VIEW p.offers_view TO p.offers AS SELECT tenantId, customerId,"
            " offerId, max(day) AS last FROM p.events GROUP BY tenantId, customerId, offerId"
        )

    def insert(self, values: list[bytes]) -> None:
        """Insert a batch of events."""
        self._file.write_bytes(b"\n".join(values))
        dedup = self._mode == "dedup"
        once = " LIMIT 1 BY interactionId" if dedup else ""
        unseen = " WHERE sipHash64(tenantId, interactionId) NOT IN p.seen" if dedup else ""
        self._run(
            f"INSERT INTO p.events ({COLUMNS}, timestamp, day) SELECT {COLUMNS}, at, day FROM"  # noqa: S608
            f" (SELECT {COLUMNS}, parseDateTime64BestEffort(timestamp, 3, 'UTC') AS at,"
            f" toDate(at) AS day FROM"
            f" (SELECT * FROM file('{self._file}', JSONEachRow, '{SCHEMA}'){once})){unseen}"
        )
        if dedup:
            self._run(
                "INSERT INTO p.seen SELECT sipHash64(tenantId, interactionId) FROM"  # noqa: S608
                f" file('{self._file}', JSONEachRow, 'tenantId String, interactionId String')"
                " SETTINGS input_format_skip_unknown_fields = 1"
            )

    def close(self) -> None:
        """Delete the file in memory."""
        self._file.unlink(missing_ok=True)

    def cells(self, today: int, sample: frozenset[str]) -> dict[str, int]:
        """Return the cells, by 20 queries that each answer all rows."""
        found: dict[str, int] = {}
        for period, days in PERIODS.items():
            after = max(0, today - days)
            for grouping, column in GROUPINGS.items():
                rows = self._rows(self._count_query(grouping, column, after))
                found[f"groups|{grouping}|{period}"] = len({group for group, *_ in rows})
                for group, outcome, events in rows:
                    if grouping != "customer" or group in sample:
                        found[f"{grouping}|{period}|{group}|{outcome}"] = int(events)
            for customer, actions in self._rows(self._distinct_query(after)):
                if customer in sample:
                    found[f"unique|{period}|{customer}"] = int(actions)
        return found

    def _count_query(self, grouping: str, column: str, after: int) -> str:
        if self._mode == "raw":
            return (
                f"SELECT {column}, outcomeTypeKey, count() FROM {DISTINCT_EVENTS}"  # noqa: S608
                f" WHERE toUInt32(day) > {after} GROUP BY 1, 2"
            )
        return (
            f"SELECT id, type, sum(n) FROM p.{grouping}"  # noqa: S608
            f" WHERE toUInt32(day) > {after} GROUP BY 1, 2"
        )

    def _distinct_query(self, after: int) -> str:
        table, day = ("events", "day") if self._mode == "raw" else ("offers", "last")
        return (
            f"SELECT customerId, uniqExact(offerId) FROM p.{table}"  # noqa: S608
            f" WHERE toUInt32({day}) > {after} GROUP BY 1"
        )


def count(tables: Tables, options: Arguments) -> None:
    """Insert all events."""
    progress = Progress(options.events)
    inserts = 0
    for records in batches(consumer(options), options.events, BATCH_EVENTS):
        tables.insert([record.value() for record in records])
        inserts += 1
        progress.add(len(records))
    report("DONE")
    report(f"NOTE {inserts} inserts")


def main() -> None:
    options = arguments()
    tables = Tables(options.folder, options.mode)
    try:
        count(tables, options)
    finally:
        tables.close()
    began_s = time.monotonic()
    cells = tables.cells(options.today, options.sample)
    report(f"NOTE 20 queries of all rows: {time.monotonic() - began_s:.2f} s")
    answer(options, cells)


if __name__ == "__main__":
    main()
