"""What all programs of the peers share: their arguments, and their reports to the bench.

A report is a line on standard output: FIRST with the first event, HALF with half of them, DONE when
all are counted, ALL when that is durable too, and ANSWERED when the cells are written. `NOTE text`
goes into the results. Standard library only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple


class Arguments(NamedTuple):
    """Arguments of each program."""

    bootstrap: str
    topic: str
    events: int
    """Number of records in the topic."""
    distinct: int
    """Number of events without copies."""
    today: int
    """Days since 1970-01-01."""
    sample: frozenset[str]
    """Customers whose cells are asked for."""
    cells: Path
    """File that the program writes its cells into."""
    folder: Path
    """Folder for the program's state. It does not exist yet."""
    dsn: str
    mode: str


def arguments() -> Arguments:
    """Parse the command line."""
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "topic", "events", "distinct", "today", "sample", "cells", "folder"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--dsn", default="")
    parser.add_argument("--mode", default="")
    options = parser.parse_args()
    return Arguments(
        bootstrap=options.bootstrap,
        topic=options.topic,
        events=int(options.events),
        distinct=int(options.distinct),
        today=int(options.today),
        sample=frozenset(Path(options.sample).read_text().split()),
        cells=Path(options.cells),
        folder=Path(options.folder),
        dsn=options.dsn,
        mode=options.mode,
    )


def report(line: str) -> None:
    """Send a report to the bench."""
    print(line, flush=True)


def answer(options: Arguments, cells: dict[str, int]) -> None:
    """Write the cells and report that they are there."""
    options.cells.write_text(json.dumps(cells))
    report("ANSWERED")


class Progress:
    """Number of events counted so far. It reports the half."""

    def __init__(self, events: int) -> None:
        self._events = events
        self._counted = 0
        self._half_reported = False

    def add(self, counted: int) -> bool:
        """Add events; return whether all are counted."""
        self._counted += counted
        if not self._half_reported and self._counted * 2 >= self._events:
            self._half_reported = True
            report("HALF")
        return self._counted >= self._events
