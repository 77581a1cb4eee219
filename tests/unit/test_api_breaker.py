"""The circuit breaker as a state machine."""

from __future__ import annotations

from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from api.breaker import Breaker, Permit

Result = Literal["ok", "failed", "unknown"]
Step = Literal["enter"] | Result


def _broken(failures: int = 3, open_s: float = 2.0, now_s: float = 0.0) -> Breaker:
    breaker = Breaker(failures_max=failures, open_s=open_s)
    for _ in range(failures):
        permit = breaker.enter(now_s)
        assert permit is not None
        breaker.leave(permit, "failed", now_s)
    return breaker


def _permit(breaker: Breaker, now_s: float) -> Permit:
    permit = breaker.enter(now_s)
    assert permit is not None
    return permit


def test_opens_at_the_last_of_the_failures_in_a_row() -> None:
    breaker = Breaker(failures_max=3, open_s=2.0)
    for _ in range(2):
        breaker.leave(_permit(breaker, 0.0), "failed", 0.0)
        assert breaker.state == "closed"
    breaker.leave(_permit(breaker, 0.0), "failed", 0.0)
    assert breaker.state == "open"
    assert breaker.enter(1.999) is None


def test_a_success_restarts_the_count() -> None:
    breaker = Breaker(failures_max=2, open_s=2.0)
    results: tuple[Result, ...] = ("failed", "ok", "failed", "unknown")
    for result in results:
        breaker.leave(_permit(breaker, 0.0), result, 0.0)
    assert breaker.state == "closed"


def test_half_open_lets_a_single_probe_out() -> None:
    breaker = _broken()
    _permit(breaker, 2.0)
    assert breaker.state == "half_open"
    assert breaker.enter(2.0) is None
    assert breaker.enter(1_000.0) is None


def test_a_good_probe_closes_it_for_everybody() -> None:
    breaker = _broken(failures=2)
    breaker.leave(_permit(breaker, 2.0), "ok", 2.1)
    assert breaker.state == "closed"
    # and the failures of before are forgotten
    breaker.leave(_permit(breaker, 2.2), "failed", 2.2)
    assert breaker.state == "closed"


def test_a_bad_probe_opens_it_for_the_whole_time_again() -> None:
    breaker = _broken()
    breaker.leave(_permit(breaker, 2.0), "failed", 2.5)
    assert breaker.enter(4.4) is None
    assert breaker.enter(4.5) is not None


def test_a_probe_given_up_does_not_lock_the_breaker() -> None:
    breaker = _broken()
    breaker.leave(_permit(breaker, 2.0), "unknown", 2.1)
    assert breaker.enter(2.1) is not None


def test_results_of_calls_from_before_it_opened_are_ignored() -> None:
    breaker = Breaker(failures_max=1, open_s=2.0)
    slow_good, slow_bad, bad = (_permit(breaker, 0.0) for _ in range(3))
    breaker.leave(bad, "failed", 0.1)
    breaker.leave(slow_good, "ok", 0.2)
    assert breaker.state == "open"
    probe = _permit(breaker, 2.1)
    breaker.leave(slow_bad, "failed", 2.2)
    assert breaker.state == "half_open"  # type: ignore[comparison-overlap]
    breaker.leave(probe, "ok", 2.3)
    assert breaker.state == "closed"


_steps = st.lists(
    st.tuples(st.sampled_from(["enter", "ok", "failed", "unknown"]), st.floats(0.0, 3.0, width=16)),
    max_size=60,
)


@given(_steps, st.integers(1, 4))
def test_it_never_locks_up_and_never_lets_two_probes_out(
    steps: list[tuple[Step, float]], failures_max: int
) -> None:
    breaker = Breaker(failures_max=failures_max, open_s=1.0)
    now_s = 0.0
    out: list[tuple[Permit, str]] = []
    for step, wait_s in steps:
        now_s += wait_s
        if step == "enter":
            permit = breaker.enter(now_s)
            if permit is not None:
                out.append((permit, breaker.state))
        elif out:
            permit, _ = out.pop(0)
            breaker.leave(permit, step, now_s)
        probes = [p for p, state in out if state == "half_open"]
        assert len(probes) <= 1
        assert (breaker.state == "half_open") == bool(probes)
    for permit, _ in out:
        breaker.leave(permit, "unknown", now_s)
    assert breaker.enter(now_s + 1.0) is not None
