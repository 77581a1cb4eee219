"""Calendar days, periods and windows. Pure: the time is always an argument.

A *day* is the number of days from 1970-01-01 to a calendar date; an instant is milliseconds since
the Unix epoch (`*_ms`). A tenant's day runs from the first instant whose local date is that date
(or a later one) to the first instant of the next day. This defines days of 23 or 25 hours, a
midnight that does not exist, and a date that a zone skipped; and an SQL query over a range of
instants gives the same result as counting by day.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

Period = Literal["daily", "weekly", "monthly", "alltime"]

#: Calendar days that each rolling period covers, including today. `alltime` has no start.
PERIOD_DAYS: Final[dict[Period, int]] = {"daily": 1, "weekly": 7, "monthly": 31}
PERIODS: Final[tuple[Period, ...]] = ("daily", "weekly", "monthly", "alltime")
TILE_DAYS: Final = 31

DAY_MS: Final = 86_400_000
EPOCH: Final = date(1970, 1, 1)
_EPOCH_UTC: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: Range of valid event times: the calendar arithmetic below is correct within it.
INSTANT_MIN_MS: Final = 2 * DAY_MS
INSTANT_MAX_MS: Final = 253_370_000_000_000  # in the year 9998


class Window(NamedTuple):
    """The days `start_day..end_day`, both included; `None` = no bound."""

    start_day: int | None
    end_day: int | None

    def __contains__(self, day: object) -> bool:
        return (
            isinstance(day, int)
            and (self.start_day is None or self.start_day <= day)
            and (self.end_day is None or day <= self.end_day)
        )


def period_for(days: int) -> Period:
    """Return the smallest materialized period that covers `days` (>= 1) calendar days."""
    for period, covered in PERIOD_DAYS.items():
        if days <= covered:
            return period
    return "alltime"


def window_of(period: Period, today: int) -> Window:
    """Return the days of `period` when the tenant's day is `today`."""
    if period == "alltime":
        return Window(None, None)
    return Window(today - PERIOD_DAYS[period] + 1, today)


def exact_window(days: int, today: int) -> Window:
    """Return the window of exactly `days` calendar days that ends with `today`."""
    return Window(today - days + 1, today)


def slots_of_horizon(dedup_horizon_h: int) -> int:
    """Return the slots (days of arrival) before and after its own in which a copy is recognised."""
    return -(-dedup_horizon_h // 24)


def from_tiles(window: Window, today: int) -> bool:
    """Return whether all days of `window` are covered by tiles."""
    start, end = window
    return start is not None and end == today and start > today - TILE_DAYS


def date_of(day: int) -> date:
    """Return the calendar date of a day number."""
    return EPOCH + timedelta(days=day)


def is_zone(name: str) -> bool:
    """Return whether `name` is a known IANA time zone."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


class Calendar:
    """Days of one time zone. Caches the midnights that it computed; not thread-safe."""

    _KEPT_MAX: Final = 4_096

    def __init__(self, zone: str) -> None:
        """Raise ValueError if `zone` is not a known IANA time zone name."""
        if not is_zone(zone):
            raise ValueError(f"timezone: {zone!r} is not an IANA time zone name")
        self.zone = zone
        self._info = ZoneInfo(zone)
        self._midnights: dict[int, int] = {}
        self._day = 0
        self._start_ms = self._end_ms = 0  # the last result: most events are of one day

    def day_of(self, instant_ms: int) -> int:
        """Return the day of `instant_ms` (INSTANT_MIN_MS <= instant_ms <= INSTANT_MAX_MS)."""
        if self._start_ms <= instant_ms < self._end_ms:
            return self._day
        day = instant_ms // DAY_MS
        while self.midnight_ms(day) > instant_ms:
            day -= 1
        while self.midnight_ms(day + 1) <= instant_ms:
            day += 1
        self._day, self._start_ms, self._end_ms = (
            day,
            self.midnight_ms(day),
            self.midnight_ms(day + 1),
        )
        return day

    def midnight_ms(self, day: int) -> int:
        """Return the first instant of `day`, in ms."""
        known = self._midnights.get(day)
        if known is None:
            if len(self._midnights) >= self._KEPT_MAX:
                self._midnights.clear()
            known = self._midnights[day] = self._first_instant(day)
        return known

    def _first_instant(self, day: int) -> int:
        # 00:00 local time; the first one if the clock is set back over midnight.
        midnight = datetime.combine(date_of(day), time(), self._info)
        second = (midnight - _EPOCH_UTC) // timedelta(seconds=1)
        if self._local_day(second - 1) >= day:
            # The clock was set forward over midnight, so 00:00 did not exist: the day begins with
            # that change, at some second of the 24 hours before.
            seconds = range(second - 86_400, second)
            second = seconds[bisect_right(seconds, day - 1, key=self._local_day)]
        return second * 1_000

    def _local_day(self, second: int) -> int:
        moment = datetime.fromtimestamp(second, UTC).astimezone(self._info)
        return (moment.date() - EPOCH).days
