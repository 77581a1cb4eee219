"""Rules of a request that JSON Schema cannot express, for the requests that schemathesis makes.

It reads this file because SCHEMATHESIS_HOOKS names it.
"""

from __future__ import annotations

from typing import Any
from zoneinfo import available_timezones

import schemathesis
from hypothesis import strategies as st

from store.records import SYSTEM_OUTCOME_TYPES

schemathesis.openapi.format("iana-time-zone", st.sampled_from(sorted(available_timezones())))

#: Part of a catalog document -> the field that no two items of the part share.
_UNIQUE = {"offers": "id", "treatments": "id", "channels": "id", "outcomeTypes": "key"}


@schemathesis.hook
def filter_body(context: schemathesis.HookContext, body: Any) -> bool:
    """Leave out catalog documents that repeat an id, or that redefine a system type."""
    if not isinstance(body, dict):
        return True
    return all(_are_allowed(body.get(part), field) for part, field in _UNIQUE.items())


def _are_allowed(items: Any, field: str) -> bool:
    if not isinstance(items, list):
        return True
    ids = [item[field] for item in items if isinstance(item, dict) and field in item]
    return len(ids) == len({str(id_) for id_ in ids}) and not any(
        id_ in SYSTEM_OUTCOME_TYPES for id_ in ids if field == "key" and isinstance(id_, str)
    )
