"""Dead-letter alarm: it switches on and off once, at the configured ratios."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.dead_letters.alarm import RatioAlarm


def alarm(*, ratio: float = 0.05, window_events: int = 1_000, bad_min: int = 20) -> RatioAlarm:
    return RatioAlarm(ratio=ratio, window_events=window_events, bad_min=bad_min)


def test_it_switches_on_above_the_ratio_and_off_at_half_of_it() -> None:
    watched = alarm()
    assert not watched.note(1_000, 50), "5 % is not more than 5 %"
    assert watched.note(1, 1)
    assert watched.is_on
    assert (watched.events, watched.bad) == (1_001, 51)
    assert not watched.note(100, 0), "still 4.6 %"
    assert not watched.note(800, 20), "fewer than 5 %, more than half of that"
    assert watched.note(900, 2)
    assert not watched.is_on
    assert not watched.note(1_000, 0)


def test_few_bad_events_are_no_alarm_at_any_ratio() -> None:
    watched = alarm()
    assert not watched.note(19, 19)
    assert watched.note(1, 1)


def test_a_group_without_events_changes_nothing() -> None:
    watched = alarm(bad_min=1)
    assert watched.note(10, 10)
    assert not watched.note(0, 0)
    assert watched.is_on


def test_events_that_left_the_window_do_not_count() -> None:
    watched = alarm(window_events=100, bad_min=1)
    assert watched.note(100, 100)
    switched = [watched.note(50, 0) for _ in range(3)]
    assert switched == [False, True, False]
    assert (watched.events, watched.bad) == (100, 0)


@given(
    groups=st.lists(
        st.tuples(st.integers(1, 40), st.integers(0, 40)).map(lambda p: (p[0], min(p)))
    ),
    window=st.integers(1, 200),
)
def test_the_window_holds_the_last_events_and_no_further_group(
    groups: list[tuple[int, int]], window: int
) -> None:
    watched = alarm(window_events=window, bad_min=3, ratio=0.2)
    was_on = False
    for n in range(len(groups)):
        switched = watched.note(*groups[n])
        assert switched == (watched.is_on != was_on)
        was_on = watched.is_on
        kept = next(
            (k for k in range(1, n + 2) if sum(e for e, _ in groups[n + 1 - k : n + 1]) >= window),
            n + 1,
        )
        last = groups[n + 1 - kept : n + 1]
        assert (watched.events, watched.bad) == (
            sum(events for events, _ in last),
            sum(bad for _, bad in last),
        )
        if switched and watched.is_on:
            assert watched.bad >= 3 and watched.bad > 0.2 * watched.events
        elif switched:
            assert watched.bad <= 0.1 * watched.events
