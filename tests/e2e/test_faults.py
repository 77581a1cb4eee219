"""Every interaction counts exactly once, whatever fails: see tests/support/chaos.py."""

from __future__ import annotations

import asyncio

import pytest

from store.settings import Settings
from tests.support.chaos import ChaosRun, Plan
from tests.support.services.base import Services


@pytest.mark.timeout(900)
def test_counters_history_and_a_plain_count_are_equal_after_a_storm(
    services: Services, settings: Settings
) -> None:
    """On real servers the whole storm. The embedded broker keeps nothing on disk and its groups
    are slow to miss a dead member, so there the storm is smaller and spares the broker."""
    if services.kind == "wheels":
        plan = Plan(seed=20261124, events=40_000, rate=2_000, kills=5, freezes=1,
                    restart=("redis", "postgres"))  # fmt: skip
    else:
        plan = Plan(seed=20261124)
    storm = ChaosRun(plan, services, settings, print)
    asyncio.run(storm.run())
    assert storm.faults["kill"] == plan.kills
    assert storm.faults["freeze"] == plan.freezes
