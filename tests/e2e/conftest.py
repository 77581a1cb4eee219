"""The program, for end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.settings import Settings
from tests.support.program import Program


@pytest.fixture
def program(settings: Settings, tmp_path: Path) -> Iterator[Program]:
    """Its commands, on servers, topics, tables and keys of this test's own."""
    started = Program(settings, tmp_path)
    try:
        yield started
    finally:
        started.close()
