"""The command `rebuild` as a process, and what it leaves in Redis."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import redis

from store.settings import Settings
from tests.support.program import Process, Program
from tests.support.waiting import TIMEOUT_S, eventually


class Generations(NamedTuple):
    """Generations of one tenant in Redis."""

    active: int
    previous: int | None
    others: set[int]
    """Numbers of further generations that have keys."""
    active_complete: bool


def generations(settings: Settings, tenant: str) -> Generations:
    """Return the tenant's generations, found by a search of all keys."""
    base = f"{settings.redis_prefix}:{{{tenant}/0}}:"
    with redis.Redis.from_url(settings.redis_url) as client:
        active = int(client.get(f"{base}active") or 0)
        meta: Mapping[bytes, bytes] = client.hgetall(f"{base}{active}:meta")
        pattern = re.compile(re.escape(base).encode() + rb"(\d+):")
        found = {
            int(match[1])
            for key in client.scan_iter(f"{base}*", count=10_000)
            if (match := pattern.match(key))
        }
    previous = int(meta[b"previous"]) if meta.get(b"previous") else None
    others = found - {active, previous}
    return Generations(active, previous, others, meta.get(b"complete") == b"1")


def start_rebuild(program: Program, name: str, tenant: str, *options: str) -> Process:
    """Start a rebuild of one tenant."""
    return program.start(name, "rebuild", "--tenant", tenant, *options)


def progress_of(process: Process) -> list[dict[str, Any]]:
    """Return the progress that a rebuild has printed so far."""
    lines = [line for line in process.log().splitlines() if line.startswith("{")]
    return [found for line in lines if "phase" in (found := json.loads(line))]


def wait_until_under_way(process: Process, *, timeout_s: float = TIMEOUT_S) -> None:
    """Return when the rebuild has created its generation, and reads its source."""

    def started() -> bool:
        if not process.alive():
            raise RuntimeError(f"the rebuild has ended\n{process.tail()}")
        return bool(progress_of(process))

    eventually(started, timeout_s=timeout_s, message="the rebuild is under way")


def kill_after(process: Process, delay_s: float) -> bool:
    """Kill the process after `delay_s`; return whether it still ran."""
    until_s = time.monotonic() + delay_s
    while process.alive() and time.monotonic() < until_s:
        time.sleep(0.002)
    was_running = process.alive()
    process.kill()
    return was_running
