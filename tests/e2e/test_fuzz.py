"""Mutated records through a running worker: each is accounted for, and the worker goes on."""

from __future__ import annotations

import asyncio

import pytest

from store.settings import Settings
from tests.support.fuzz import FuzzRun
from tests.support.services.base import Services


@pytest.mark.long
def test_every_mutated_record_is_accounted_for(services: Services, settings: Settings) -> None:
    found = asyncio.run(FuzzRun(services, settings, seed=7, say=print).run(2_000))
    assert found["stored"] and found["dead letter"] and found["skipped"], found
