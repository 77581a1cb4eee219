"""Days, midnights and windows hold to one meaning in every time zone, and to zoneinfo's."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from store.windows import (
    DAY_MS,
    EPOCH,
    INSTANT_MAX_MS,
    INSTANT_MIN_MS,
    PERIOD_DAYS,
    PERIODS,
    TILE_DAYS,
    Calendar,
    Period,
    Window,
    date_of,
    exact_window,
    from_tiles,
    is_zone,
    period_for,
    window_of,
)
from tests.support.zones import ODD_ZONES, ZONES, transitions

HOUR_MS = 3_600_000
zones = st.sampled_from(ODD_ZONES) | st.sampled_from(ZONES)
instants = st.integers(INSTANT_MIN_MS, 4_102_444_800_000) | st.integers(
    INSTANT_MIN_MS, INSTANT_MAX_MS
)


def day(year: int, month: int, day_of_month: int) -> int:
    return (date(year, month, day_of_month) - EPOCH).days


def local_day(zone: str, instant_ms: int) -> int:
    """The day on the calendar on the wall, as zoneinfo has it."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=instant_ms)
    return (moment.astimezone(ZoneInfo(zone)).date() - EPOCH).days


def assert_day_holds(calendar: Calendar, instant_ms: int) -> None:
    """The day of an instant, the midnights around it and the wall agree."""
    today = calendar.day_of(instant_ms)
    start_ms, end_ms = calendar.midnight_ms(today), calendar.midnight_ms(today + 1)
    assert start_ms <= instant_ms < end_ms
    assert calendar.day_of(start_ms) == calendar.day_of(end_ms - 1) == today
    assert calendar.day_of(start_ms - 1) < today < calendar.day_of(end_ms)
    # The first instant of the date or a later one: the wall has it then, and had not before.
    assert local_day(calendar.zone, start_ms) == today
    assert local_day(calendar.zone, start_ms - 1) < today
    # A clock set back over midnight shows yesterday's date again; the day goes on all the same.
    assert today - 1 <= local_day(calendar.zone, instant_ms) <= today


@settings(max_examples=1_500, deadline=None)
@given(zone=zones, instant_ms=instants)
@example(zone="Pacific/Apia", instant_ms=1_325_239_200_000)  # its 30 December 2011 never was
@example(zone="Kwajalein", instant_ms=745_848_000_000)  # its 21 August 1993
@example(zone="America/St_Johns", instant_ms=1_257_046_200_000)  # set back at 00:01
@example(zone="America/Sao_Paulo", instant_ms=1_541_300_400_000)  # no midnight
def test_a_day_runs_from_its_midnight_to_the_next_and_is_the_day_on_the_wall(
    zone: str, instant_ms: int
) -> None:
    assert_day_holds(Calendar(zone), instant_ms)


@pytest.mark.parametrize("zone", ODD_ZONES)
def test_days_hold_around_every_change_of_an_odd_clock(zone: str) -> None:
    calendar = Calendar(zone)
    found = transitions(zone, 1970 if zone == "Kwajalein" else 1985, 2030)
    for at_ms in found:
        for around_ms in (-DAY_MS, -HOUR_MS, -60_000, -1, 0, 1, 60_000, HOUR_MS, DAY_MS):
            assert_day_holds(calendar, at_ms + around_ms)


def test_every_zone_has_days_that_hold_and_follow_each_other() -> None:
    """A year of days of each IANA zone."""
    for zone in ZONES:
        calendar = Calendar(zone)
        first = day(2026, 1, 1)
        midnights = [calendar.midnight_ms(d) for d in range(first, first + 366)]
        lengths = {(b - a) / HOUR_MS for a, b in pairwise(midnights)}
        assert lengths <= {23, 23.5, 24, 24.5, 25, 22, 26}, zone  # Troll's clock moves 2 hours
        assert len(lengths) != 2, zone  # what is put forward is put back
        for place, midnight_ms in enumerate(midnights):
            assert local_day(zone, midnight_ms) == first + place
            assert local_day(zone, midnight_ms - 1) == first + place - 1
            assert calendar.day_of(midnight_ms) == first + place
            assert calendar.day_of(midnight_ms - 1) == first + place - 1


@pytest.mark.parametrize(
    ("zone", "of", "hours"),
    [
        ("America/New_York", day(2026, 3, 8), 23),
        ("America/New_York", day(2026, 11, 1), 25),
        ("Europe/Berlin", day(2026, 3, 29), 23),
        ("Europe/Berlin", day(2026, 10, 25), 25),
        ("Australia/Lord_Howe", day(2026, 4, 5), 24.5),
        ("Australia/Lord_Howe", day(2026, 10, 4), 23.5),
        ("Asia/Kolkata", day(2026, 11, 24), 24),
        ("Pacific/Apia", day(2011, 12, 29), 24),
        ("Pacific/Apia", day(2011, 12, 30), 0),
        ("Pacific/Apia", day(2011, 12, 31), 24),
        ("America/Sao_Paulo", day(2018, 11, 4), 23),  # begins at 01:00
        ("America/St_Johns", day(2009, 11, 1), 25),  # begins twice: 00:00, and again at 00:01
    ],
)
def test_a_day_has_as_many_hours_as_its_zone_gives_it(zone: str, of: int, hours: float) -> None:
    calendar = Calendar(zone)
    assert calendar.midnight_ms(of + 1) - calendar.midnight_ms(of) == hours * HOUR_MS


@pytest.mark.parametrize(
    ("zone", "of", "midnight"),
    [
        ("Pacific/Kiritimati", day(2026, 11, 24), "2026-11-23T10:00:00+00:00"),  # +14
        ("Pacific/Pago_Pago", day(2026, 11, 24), "2026-11-24T11:00:00+00:00"),  # -11
        ("Asia/Kathmandu", day(2026, 11, 24), "2026-11-23T18:15:00+00:00"),  # +5:45
        ("Pacific/Apia", day(2011, 12, 30), "2011-12-30T10:00:00+00:00"),  # empty: it is the 31st
        ("Pacific/Apia", day(2011, 12, 31), "2011-12-30T10:00:00+00:00"),
        ("America/Sao_Paulo", day(2018, 11, 4), "2018-11-04T03:00:00+00:00"),  # 01:00 there
        ("America/St_Johns", day(2009, 11, 1), "2009-11-01T02:30:00+00:00"),  # the first of two
    ],
)
def test_midnights(zone: str, of: int, midnight: str) -> None:
    assert Calendar(zone).midnight_ms(of) == datetime.fromisoformat(midnight).timestamp() * 1_000


def test_a_date_that_a_zone_skipped_is_the_day_of_no_instant() -> None:
    calendar = Calendar("Pacific/Apia")
    skipped = day(2011, 12, 30)
    start_ms = calendar.midnight_ms(skipped)
    assert calendar.day_of(start_ms - 1) == skipped - 1
    assert calendar.day_of(start_ms) == skipped + 1


def test_a_calendar_forgets_midnights_rather_than_grow_without_end() -> None:
    calendar = Calendar("Europe/Berlin")
    seen = [calendar.midnight_ms(of) for of in range(10_000)]
    assert len(calendar._midnights) <= Calendar._KEPT_MAX
    assert [calendar.midnight_ms(of) for of in range(10_000)] == seen


@settings(max_examples=300, deadline=None)
@given(zone=zones, at=st.lists(instants, min_size=2, max_size=8))
def test_what_a_calendar_was_asked_before_changes_nothing(zone: str, at: list[int]) -> None:
    used = Calendar(zone)
    assert [used.day_of(ms) for ms in at] == [Calendar(zone).day_of(ms) for ms in at]


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../etc/passwd", "utc\0", "/etc", "Europe"])
def test_what_is_no_zone_is_refused(name: str) -> None:
    assert not is_zone(name)
    with pytest.raises(ValueError, match="timezone"):
        Calendar(name)


# ---- periods and windows


@pytest.mark.parametrize(
    ("days", "period"),
    [
        *((1, "daily"), (2, "weekly"), (7, "weekly"), (8, "monthly"), (31, "monthly")),
        *((32, "alltime"), (3_650, "alltime")),
    ],
)
def test_the_smallest_period_that_covers_the_days(days: int, period: Period) -> None:
    assert period_for(days) == period


@given(today=st.integers(40, 100_000), period=st.sampled_from(PERIODS))
def test_a_period_ends_today_and_has_its_number_of_days(today: int, period: Period) -> None:
    window = window_of(period, today)
    if period == "alltime":
        assert window == Window(None, None)
        assert 0 in window
        assert today + 1 in window
        return
    inside = [d for d in range(today - 40, today + 3) if d in window]
    assert inside == list(range(today - PERIOD_DAYS[period] + 1, today + 1))
    assert window == exact_window(PERIOD_DAYS[period], today)


@given(today=st.integers(4_000, 100_000), days=st.integers(1, 3_650))
def test_an_exact_window_has_exactly_its_days(today: int, days: int) -> None:
    window = exact_window(days, today)
    assert today in window
    assert today + 1 not in window
    assert today - days + 1 in window
    assert today - days not in window
    assert from_tiles(window, today) == (days <= TILE_DAYS)
    assert not from_tiles(window, today + 1)
    assert not from_tiles(window._replace(start_day=None), today)
    assert not from_tiles(window._replace(end_day=None), today)


def test_days_are_dates() -> None:
    assert date_of(0) == date(1970, 1, 1)
    assert date_of(day(2026, 11, 24)) == date(2026, 11, 24)
