"""Test processes that run side by side share no port and no long run by accident."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from cli.embedded import server
from tests.conftest import port_range

ROOT = Path(__file__).resolve().parents[2]


def test_processes_have_separate_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PORTS", range(15_000, 32_000))
    ranges = [port_range(index, 4) for index in range(4)]
    assert all(len(ports) == 4_250 for ports in ranges)
    assert len({port for ports in ranges for port in ports}) == 4 * 4_250
    monkeypatch.setattr(server, "PORTS", ranges[1])
    assert all(server.free_port() in ranges[1] for _ in range(20))


def test_ports_are_below_those_of_outgoing_connections() -> None:
    """A client that retries could otherwise get the port of a stopped server for itself."""
    assert server.PORTS.stop <= 32_768


def test_make_test_leaves_out_exactly_what_ci_runs_as_long() -> None:
    makefile, ci = (ROOT / "Makefile").read_text(), (ROOT / ".ci/run").read_text()
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert [marker.partition(":")[0] for marker in markers["markers"]] == ["long"]
    assert '-m "not long"' in makefile
    assert "-m long" in makefile
    assert "make test SERVICES=wheels" in ci
    assert 'make test-all SERVICES=real TEST_WORKERS=3 TESTS="tests/integration tests/e2e"' in ci, (
        "the servers of production run all tests"
    )
