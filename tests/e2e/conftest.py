"""Fixtures for end-to-end tests: the program as users run it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.settings import Settings
from tests.support.program import Program


@pytest.fixture
def program(settings: Settings, tmp_path: Path) -> Iterator[Program]:
    """Return a runner of the program's commands; all that it started ends with the test."""
    started = Program(settings, tmp_path)
    try:
        yield started
    finally:
        started.close()
