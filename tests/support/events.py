"""Events for tests."""

from __future__ import annotations

import hashlib
import itertools
import json
from datetime import UTC, datetime

from hypothesis import strategies as st

from store.records import Event, SourcedEvent
from store.windows import DAY_MS

#: Midday of Tuesday, 24 November 2026, UTC.
NOW_MS = 1_795_478_400_000 + 12 * 3_600_000
TODAY = NOW_MS // DAY_MS

_serial = itertools.count()


def make_event(
    *,
    tenant: str = "acme",
    customer: str = "C-1",
    offer: str = "off_001",
    creative: str | None = "cr_001",
    channel: str | None = "ch_001",
    outcome: str = "impression",
    occurred_ms: int = NOW_MS,
    identity: str | None = None,
) -> Event:
    name = identity or f"e{next(_serial)}"
    return Event(
        event_id=hashlib.blake2b(f"{tenant}/{name}".encode(), digest_size=16).digest(),
        tenant=tenant,
        customer=customer,
        offer=offer,
        creative=creative,
        channel=channel,
        outcome=outcome,
        occurred_ms=occurred_ms,
        interaction_id=name,
        direction=None,
        campaign=None,
        recommendation=None,
        conversion_value=None,
        context=None,
    )


def encode(event: Event) -> bytes:
    moment = datetime.fromtimestamp(event.occurred_ms // 1000, UTC)
    stamp = f"{moment:%Y-%m-%dT%H:%M:%S}.{event.occurred_ms % 1000:03d}Z"
    payload = {
        "interactionId": event.interaction_id,
        "tenantId": event.tenant,
        "customerId": event.customer,
        "offerId": event.offer,
        "creativeId": event.creative,
        "channelId": event.channel,
        "outcomeTypeKey": event.outcome,
        "timestamp": stamp,
    }
    return json.dumps(
        {"type": "interaction.recorded.v1", "timestamp": stamp, "payload": payload}
    ).encode()


def sourced(*events: Event, first: int = 0, recorded_ms: int = NOW_MS) -> list[SourcedEvent]:
    return [SourcedEvent(event, first + i, recorded_ms) for i, event in enumerate(events)]


OUTCOMES = ("impression", "click", "dismiss", "accept", "convert", "deferred", "own_type")

#: Few ids, so that groups meet; some sort differently by collation than by code point.
IDS = ("a", "B", "b", "é", "_", "😀", "off_1", "z" * 128)


def events(*, days: range, tenant: str = "acme") -> st.SearchStrategy[Event]:
    """Events of the UTC days in `days`, some at the very first or last instant of one."""
    instants = st.builds(
        lambda day, ms: day * DAY_MS + ms,
        st.sampled_from(days),
        st.sampled_from((0, DAY_MS - 1)) | st.integers(0, DAY_MS - 1),
    )
    return st.builds(
        make_event,
        tenant=st.just(tenant),
        customer=st.sampled_from(IDS),
        offer=st.sampled_from(IDS),
        creative=st.none() | st.sampled_from(IDS),
        channel=st.none() | st.sampled_from(IDS),
        outcome=st.sampled_from(OUTCOMES),
        occurred_ms=instants,
    )
