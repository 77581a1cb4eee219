"""Rate of counting that workers report, and the names of the workers."""

from __future__ import annotations

import os
import socket

from store.redis.owners import new_owner, worker_of
from streams.progress import RATE_MS, CountingRates


def test_a_rate_is_the_average_of_the_last_seconds() -> None:
    rates = CountingRates()
    assert rates.update({0: 1_000, 1: 5}, 0) == {}
    assert rates.update({0: 1_050, 1: 5}, 500) == {0: 100.0, 1: 0.0}
    for at_ms in range(1_000, RATE_MS + 1, 500):
        rates.update({0: 1_000 + at_ms // 10, 1: 5}, at_ms)
    # Idle from here on: after RATE_MS nothing of the traffic before is left.
    assert rates.update({0: 2_000}, RATE_MS + RATE_MS // 2) == {0: 50.0}
    assert rates.update({0: 2_000}, 2 * RATE_MS) == {0: 0.0}


def test_a_rewind_and_a_new_assignment_start_the_average_again() -> None:
    rates = CountingRates()
    rates.update({0: 1_000}, 0)
    assert rates.update({0: 100}, 500) == {}
    assert rates.update({0: 200}, 1_000) == {0: 200.0}
    assert rates.update({}, 1_500) == {}
    assert rates.update({0: 900}, 2_000) == {}


def test_an_owner_names_host_and_process() -> None:
    assert new_owner() != new_owner()
    assert worker_of(new_owner()) == f"{socket.gethostname()}:{os.getpid()}"
    assert worker_of("0123456789abcdef0123456789abcdef") == "", "of an older version"
