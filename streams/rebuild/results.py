"""Options and outcomes of rebuilds and rollbacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from store.counters import Shortfall
from streams.rebuild.plan import From
from streams.rebuild.since import Since


class Options(NamedTuple):
    """How to rebuild."""

    source: From = "auto"
    force: bool = False
    """Rebuild though counts are lost."""
    dry_run: bool = False
    """Build and compare, then drop the new generation."""
    events_per_s: float | None = None
    """Maximum rate; None = none beyond the share of Redis' time."""
    since: Since | None = None
    """Rebuild the days from this one on, and take the days before from the active generation."""
    shards: int | None = None
    """Number of shards of the new generation; None = that of the active one."""


class RebuildResult(NamedTuple):
    """Outcome of the rebuild of one tenant."""

    tenant: str
    generation: int
    previous_generation: int | None
    """The generation that was active before; kept for a rollback."""
    events: int
    previous_events: int | None
    """Events of the generation before; None = unknown, or there was none."""
    from_history: int
    """Events that came from history; the others came from the topic."""
    behind: Sequence[Shortfall] = ()
    """Empty: the generation is complete. Else history answers until a worker has caught up."""
    notes: Sequence[str] = ()
    shards: int = 1
    previous_shards: int = 1


class RollbackResult(NamedTuple):
    """Outcome of the rollback of one tenant."""

    tenant: str
    generation: int
    behind: Sequence[Shortfall]
    """Empty: the generation is complete. Else history answers until a worker has caught up."""


class Failure(NamedTuple):
    """A tenant whose rebuild or rollback was not possible; its live counters are unchanged."""

    tenant: str
    reason: str


class Refused(Failure):
    """A failure because another rebuild of the tenant is running, which reports by itself."""
