"""What reads of the raw rows share: the column of each grouping, and instants of rows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from store.records import Grouping

#: Grouping -> column of `interaction_history`. No other column can be reached by a question.
GROUP_COLUMNS: Final[Mapping[Grouping, str]] = {
    "action": "offer_id",
    "treatment": "creative_id",
    "channel": "channel_id",
    "customer": "customer_id",
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def instant(ms: int) -> datetime:
    """Return the time in UTC, by integers: `fromtimestamp` would convert to a float first."""
    return _EPOCH + timedelta(milliseconds=ms)


def ms_of(moment: datetime) -> int:
    """Return the time in ms, rounded down; the reverse of `instant`."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)
