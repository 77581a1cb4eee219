"""Pathway, two threads.

Identities by groupby and reduce, then tiles of each grouping and the last day of each action of a
customer. Every change is written to a file per table, from which the cells are read at the end.
"""

from __future__ import annotations

import csv
import datetime as dt
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("PATHWAY_THREADS", "2")  # read when pathway is imported

import pathway as pw

from bench.peers.cells import Tile, distinct_actions, from_tiles
from bench.peers.programs.reports import Arguments, answer, arguments, report

EPOCH = dt.date(1970, 1, 1)
FILES_COMPLETE_S = 4.0
"""The files are complete this long after the last sum has arrived: their writers run beside."""


class EventSchema(pw.Schema):  # type: ignore[misc]
    """The fields of an event that are counted."""

    interactionId: str
    tenantId: str
    customerId: str
    offerId: str
    creativeId: str
    channelId: str
    outcomeTypeKey: str
    timestamp: str


class Sums:
    """Sum of the events of each grouping. It reports when all four have reached a half, and all."""

    def __init__(self, distinct: int) -> None:
        self._distinct = distinct
        self._sums: dict[str, int] = {}
        self._half_reported = False
        self.done = threading.Event()

    def watch(self, grouping: str) -> Callable[..., None]:
        """Return the function that pathway calls with each change of a sum."""

        def on_change(key: Any, row: dict[str, int], time: int, is_addition: bool) -> None:
            if is_addition:
                self._sums[grouping] = row["events"]
                self._report()

        return on_change

    def _report(self) -> None:
        if len(self._sums) < 4 or self.done.is_set():
            return
        counted = min(self._sums.values())
        if not self._half_reported and counted * 2 >= self._distinct:
            self._half_reported = True
            report("HALF")
        if counted >= self._distinct:
            report("DONE")
            self.done.set()


def build(options: Arguments, sums: Sums) -> None:
    """Define the tables and their outputs."""
    settings = {
        "bootstrap.servers": options.bootstrap,
        "group.id": f"pathway-{time.time_ns()}",
        "auto.offset.reset": "earliest",
        "session.timeout.ms": "6000",
        "isolation.level": "read_committed",
    }
    events = pw.io.kafka.read(
        settings, topic=options.topic, schema=EventSchema, format="json", autocommit_duration_ms=200
    )
    any_ = pw.reducers.any
    once = events.groupby(events.interactionId).reduce(
        customer=any_(events.customerId),
        action=any_(events.offerId),
        treatment=any_(events.creativeId),
        channel=any_(events.channelId),
        outcome=any_(events.outcomeTypeKey),
        timestamp=any_(events.timestamp),
    )
    once = once.with_columns(day=once.timestamp.str.slice(0, 10))
    for grouping in ("action", "treatment", "channel", "customer"):
        table = once.select(group=once[grouping], day=once.day, outcome=once.outcome)
        table = table.groupby(table.group, table.day, table.outcome).reduce(
            table.group, table.day, table.outcome, events=pw.reducers.count()
        )
        pw.io.csv.write(table, options.folder / f"{grouping}.csv")
        total = table.reduce(events=pw.reducers.sum(table.events))
        pw.io.subscribe(total, sums.watch(grouping))
    actions = once.groupby(once.customer, once.action).reduce(
        once.customer, once.action, day=pw.reducers.max(once.day)
    )
    pw.io.csv.write(actions, options.folder / "last_days.csv")


def rows_of(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the rows that are left after all changes."""
    present: Counter[tuple[str, ...]] = Counter()
    with file.open() as lines:
        for change in csv.DictReader(lines):
            present[tuple(change[name] for name in columns)] += int(change["diff"])
    return (row for row, copies in present.items() if copies > 0)


def day_of(date: str) -> int:
    """Return the days since 1970-01-01."""
    return (dt.date.fromisoformat(date) - EPOCH).days


def tiles(folder: Path) -> Iterator[Tile]:
    """Yield the tiles of all groups."""
    columns = ("group", "day", "outcome", "events")
    for grouping in ("action", "treatment", "channel", "customer"):
        for group, day, outcome, events in rows_of(folder / f"{grouping}.csv", columns):
            yield Tile(grouping, group, day_of(day), outcome, int(events))


def last_days(options: Arguments) -> Iterator[tuple[str, int]]:
    """Yield customer and last day of each of their actions, for the sampled customers."""
    rows = rows_of(options.folder / "last_days.csv", ("customer", "action", "day"))
    return ((customer, day_of(day)) for customer, _, day in rows if customer in options.sample)


def main() -> None:
    options = arguments()
    options.folder.mkdir(parents=True)
    sums = Sums(options.distinct)
    build(options, sums)
    # It takes the whole backlog in one step, so there is no later moment to start the clock at.
    report("FIRST")
    level = pw.MonitoringLevel.NONE
    threading.Thread(target=pw.run, kwargs={"monitoring_level": level}, daemon=True).start()
    sums.done.wait()
    time.sleep(FILES_COMPLETE_S)
    cells = from_tiles(tiles(options.folder), options.today, options.sample)
    answer(options, cells | distinct_actions(last_days(options), options.today))
    os._exit(0)  # the source never ends


if __name__ == "__main__":
    main()
