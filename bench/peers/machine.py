"""The machine: whether it is at rest, how fast it is, what it is; processor time and memory."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
REST_SHARE = 0.08
"""The machine is at rest below this share of one processor."""
REST_S = 2.0
SPEED_LOOPS = 3_000_000


class Load(NamedTuple):
    """Processor time of the machine since its start, in seconds."""

    busy_s: float
    """Of all processors and all processes."""
    stolen_s: float
    """Taken by other virtual machines."""
    bench_s: float
    """Of this process: it polls while a system runs."""


def load() -> Load:
    """Return the processor time used so far."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _wait, interrupts, soft, stolen = map(int, fields)
    own = os.times()
    busy = (user + nice + system + interrupts + soft) / _TICKS
    return Load(busy, stolen / _TICKS, own.user + own.system)


def wait_for_rest(timeout_s: float) -> bool:
    """Wait until the machine is at rest for REST_S; return False if it is not within the timeout.

    With a timeout of 0 it does not wait and returns False.
    """
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        before, began_s = load(), time.monotonic()
        time.sleep(REST_S)
        if (load().busy_s - before.busy_s) / (time.monotonic() - began_s) < REST_SHARE:
            return True
    return False


def speed() -> float:
    """Return how many million additions a second one process of Python does now."""
    began_s = time.perf_counter()
    total = 0
    for number in range(SPEED_LOOPS):
        total += number
    return SPEED_LOOPS / 1e6 / (time.perf_counter() - began_s)


def family(pid: int) -> Iterator[int]:
    """Yield a process and its descendants, those that its threads started included."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                yield from family(int(child))


def memory_mb(pid: int) -> float:
    """Return the memory of a process and its descendants; shared pages count in proportion."""
    total_kb = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            found = re.search(
                r"^Pss:\s+(\d+)", Path(f"/proc/{member}/smaps_rollup").read_text(), re.M
            )
            total_kb += int(found[1]) if found else 0
    return total_kb / 1024


def describe() -> str:
    """Return the processors, the memory and the kernel, without the machine's name."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.M)
    processor = model[1].strip() if model else platform.machine()
    memory_gb = int(memory[1]) / 1024**2 if memory else 0.0
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores ({processor}), {memory_gb:.0f} GiB of memory,"
        f" {platform.system()} {platform.release()}"
    )
