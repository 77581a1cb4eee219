"""Rates and processor time between two reports of a system."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from bench.cpu_time import cpu_s
from bench.peers.machine import Load, load, memory_mb

BROKER = "broker"
HALF_SHARE_MIN = 0.05
"""A shorter second half than this share of the time is none: all was counted in one step."""


class Mark(NamedTuple):
    """What was used up to one report."""

    at_s: float
    cpu_s: Mapping[str, float]
    """Process -> its processor time."""
    load: Load


class Measured(NamedTuple):
    """What one run of a system measured."""

    events_s: float
    """Events per second until all were counted."""
    second_half_s: float
    """Events per second of the second half, when caches and compilers are warm; 0 if unknown."""
    stored_s: float
    """Events per second until all were durable too; 0 if the system reports no such moment."""
    cpu_us: Mapping[str, float]
    """Process -> microseconds of processor time per event, until all was durable."""
    memory_mb: Mapping[str, float]
    foreign_percent: float
    """Processor time of all other processes meanwhile; 100 is one processor."""
    stolen_percent: float

    @property
    def total_us(self) -> float:
        """Microseconds per event of all processes but the broker."""
        return sum(spent for process, spent in self.cpu_us.items() if process != BROKER)

    @property
    def total_mb(self) -> float:
        """Memory of all processes but the broker."""
        return sum(size for process, size in self.memory_mb.items() if process != BROKER)


def measured(marks: Mapping[str, Mark], events: int, memory: Mapping[str, float]) -> Measured:
    """Return the result of a run, from its marks: FIRST, DONE, and HALF and ALL if known."""
    first, done = marks["FIRST"], marks["DONE"]
    last = marks.get("ALL", done)
    span_s = last.at_s - first.at_s
    spent = {process: used - first.cpu_s[process] for process, used in last.cpu_s.items()}
    busy_s = last.load.busy_s - first.load.busy_s
    bench_s = last.load.bench_s - first.load.bench_s
    stolen_s = last.load.stolen_s - first.load.stolen_s
    return Measured(
        events_s=events / (done.at_s - first.at_s),
        second_half_s=_half_rate(marks, events),
        stored_s=events / span_s if "ALL" in marks else 0.0,
        cpu_us={process: used / events * 1e6 for process, used in spent.items()},
        memory_mb=memory,
        foreign_percent=max(0.0, 100 * (busy_s - bench_s - sum(spent.values())) / span_s),
        stolen_percent=100 * stolen_s / span_s,
    )


def _half_rate(marks: Mapping[str, Mark], events: int) -> float:
    half, first, done = marks.get("HALF"), marks["FIRST"], marks["DONE"]
    if half is None or done.at_s - half.at_s < HALF_SHARE_MIN * (done.at_s - first.at_s):
        return 0.0
    return events / 2 / (done.at_s - half.at_s)


class Meter:
    """Marks of one run.

    Arguments:
        processes: Name -> process id; the descendants of a process are part of it.
    """

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = processes
        self.marks: dict[str, Mark] = {}

    def mark(self, report: str) -> None:
        """Note what is used now."""
        used = {name: cpu_s(pid, family=True) for name, pid in self._processes.items()}
        self.marks[report] = Mark(time.monotonic(), used, load())

    def result(self, events: int) -> Measured:
        """Return the result; memory is that of now."""
        memory = {name: memory_mb(pid) for name, pid in self._processes.items()}
        return measured(self.marks, events, memory)
