"""Processor time of a process. Imports nothing of the program: see `bench.history_reads`."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int | None, *, family: bool = False) -> float:
    """Return the seconds of processor time that a process has used so far; 0 without /proc.

    `family` adds its children, including those that have ended.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        spent = sum(int(field) for field in fields[11 : 15 if family else 13]) / _TICKS
        if family:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            spent += sum(cpu_s(int(child)) for child in children)
    except OSError:
        return 0.0
    return spent
