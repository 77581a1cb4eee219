"""Whether a worker is alive and ready: what `/healthz` and `/readyz` answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class WorkerState(NamedTuple):
    """State of a worker at one moment."""

    failure: str | None
    """The error that ends the process, for example of the watchdog."""
    stopping: bool
    lags: Mapping[int, int | None]
    """Assigned partition -> events not counted yet; None = its end is not known."""


class Health(NamedTuple):
    """Answer of an endpoint: whether all is well, and the JSON body, with the reason if not."""

    ok: bool
    body: Mapping[str, Any]


def liveness(state: WorkerState) -> Health:
    """Return whether the process should go on. One that waits for a store or a broker should."""
    if state.failure is not None:
        return not_alive(state.failure)
    return Health(True, {"status": "ok"})


def readiness(state: WorkerState, *, lag_max: int) -> Health:
    """Return whether the worker has partitions, and at most `lag_max` events wait in them."""
    known = [lag for lag in state.lags.values() if lag is not None]
    details: dict[str, Any] = {"partitions": sorted(state.lags)}
    if known and len(known) == len(state.lags):
        details["lag"] = sum(known)
    reason = _reason(state, sum(known), lag_max)
    if reason is not None:
        return not_ready(reason, details)
    return Health(True, {"status": "ok", **details})


def _reason(state: WorkerState, lag: int, lag_max: int) -> str | None:
    """Return why the worker is not ready; None: it is."""
    unknown = sorted(partition for partition, lag in state.lags.items() if lag is None)
    if state.failure is not None:
        return f"the worker is ending: {state.failure}"
    if state.stopping:
        return "the worker is stopping"
    if not state.lags:
        return "no partition is assigned"
    if lag > lag_max:
        return f"{lag} events are not counted yet, more than WORKER_READY_LAG_MAX={lag_max}"
    if unknown:
        return f"the end of partitions {unknown} is not known"
    return None


def not_alive(reason: str) -> Health:
    """Return that the process should end."""
    return Health(False, {"status": "failing", "reason": reason})


def not_ready(reason: str, details: Mapping[str, Any] | None = None) -> Health:
    """Return that the worker does not count, or is behind."""
    return Health(False, {"status": "not ready", "reason": reason, **(details or {})})
