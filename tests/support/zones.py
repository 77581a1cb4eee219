"""Time zones for tests, and the moments when their clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

ZONES = sorted(available_timezones())
#: Zones whose clocks change by half an hour or two hours, at midnight, a minute after it, or across
#: the date line; and the zones furthest ahead of and behind UTC.
ODD_ZONES = (
    "Africa/Cairo",
    "America/Havana",
    "America/New_York",
    "America/Santiago",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Asia/Pyongyang",
    "Asia/Tehran",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Kwajalein",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Fakaofo",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
)


def transitions(zone: str, since_year: int, until_year: int) -> list[int]:
    """Return the instants (ms) when the zone's clock changes, found by bisection within a day."""
    info = ZoneInfo(zone)

    def offset_at(second: int) -> timedelta | None:
        return datetime.fromtimestamp(second, UTC).astimezone(info).utcoffset()

    found = []
    first = int(datetime(since_year, 1, 1, tzinfo=UTC).timestamp())
    last = int(datetime(until_year, 1, 1, tzinfo=UTC).timestamp())
    for low in range(first, last, 86_400):
        high = low + 86_400
        if offset_at(low) == offset_at(high):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            if offset_at(middle) == offset_at(low):
                low = middle
            else:
                high = middle
        found.append(high * 1_000)
    return found
