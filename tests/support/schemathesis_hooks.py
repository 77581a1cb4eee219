"""Rules of a request that JSON Schema cannot express, for the requests that schemathesis makes.

It reads this file because SCHEMATHESIS_HOOKS names it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from zoneinfo import available_timezones

import schemathesis
from hypothesis import strategies as st

from store.records import SYSTEM_OUTCOME_TYPES

schemathesis.openapi.format("iana-time-zone", st.sampled_from(sorted(available_timezones())))

#: Part of a catalog document -> the field that no two items share, and values that it cannot have.
_RULES: dict[str, tuple[str, Collection[str]]] = {
    "offers": ("id", ()),
    "treatments": ("id", ()),
    "channels": ("id", ()),
    "outcomeTypes": ("key", SYSTEM_OUTCOME_TYPES),
}


@schemathesis.hook
def filter_body(context: schemathesis.HookContext, body: Any) -> bool:
    """Leave out catalog documents that repeat an id, or that redefine a system type."""
    return not isinstance(body, dict) or all(
        _are_allowed(body.get(part), *rule) for part, rule in _RULES.items()
    )


def _are_allowed(items: Any, field: str, refused: Collection[str]) -> bool:
    if not isinstance(items, list):
        return True
    ids = [str(item[field]) for item in items if isinstance(item, dict) and field in item]
    return len(ids) == len(set(ids)) and set(ids).isdisjoint(refused)
