"""Every interaction counts exactly once while workers and servers fail: tests/support/chaos.py."""

from __future__ import annotations

import asyncio

import pytest

from store.settings import Settings
from tests.support.chaos import ChaosRun
from tests.support.chaos_stream import Plan
from tests.support.services.base import Services

SEED = 20261124
SMALL = Plan(
    SEED,
    events=10_000,
    rate=2_000,
    kills=2,
    freezes=1,
    restart=("redis", "postgres"),
    poison=60,
    new_tenants=(20, 40),
)
#: The embedded broker keeps nothing on disk, so it is not restarted; and its groups take long to
#: notice a dead member, so there are fewer kills.
ON_WHEELS = Plan(SEED, events=40_000, rate=2_000, kills=5, freezes=1, restart=("redis", "postgres"))
WHOLE = Plan(SEED)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", ["small", pytest.param("whole", marks=pytest.mark.long)])
def test_counters_history_and_a_plain_count_are_equal_after_faults(
    services: Services, settings: Settings, size: str
) -> None:
    """Run the small plan on any servers, the whole one on real servers, or its part on wheels."""
    whole = ON_WHEELS if services.kind == "wheels" else WHOLE
    plan = SMALL if size == "small" else whole
    run = ChaosRun(plan, services, settings, print)
    asyncio.run(run.run())
    assert run.faults["kill"] == plan.kills
    assert run.faults["freeze"] == plan.freezes
