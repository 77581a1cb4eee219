"""Counters as this process saw them last, by what does not change while they exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from store.counters import Counted


class _Known(NamedTuple):
    topic_id: str
    number: int
    first_watermarks: Mapping[int, int]


class KnownCounters:
    """Remembers the tenants' counters beyond a read session, to notice that a store lost some."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def __contains__(self, tenant: str) -> bool:
        return tenant in self._known

    def note(self, counted: Counted, topic_id: str) -> None:
        """Remember what was read of a tenant."""
        generation = counted.generation
        known = _Known(topic_id, generation.number, counted.first_watermarks)
        self._known[generation.tenant] = known

    def forget(self, tenant: str) -> None:
        """Forget a tenant that was removed."""
        self._known.pop(tenant, None)

    def were_recreated(self, counted: Counted, topic_id: str) -> bool:
        """Return whether these are not the counters that were known under their number.

        The store lost those, and another worker has created the tenant's counters again since: they
        may begin after events that were counted before.
        """
        known = self._known.get(counted.generation.tenant)
        return (
            known is not None
            and (known.topic_id, known.number) == (topic_id, counted.generation.number)
            and known.first_watermarks != counted.first_watermarks
        )
