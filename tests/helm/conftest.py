"""Fixture that renders the chart with the `helm` that the variable HELM names."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.support.helm_chart import CHART, Manifests, run_helm


@pytest.fixture(scope="session")
def helm() -> Path:
    """Return the program; without it there is nothing to test."""
    if not os.environ.get("HELM"):
        pytest.exit("HELM names no program; run: .ci/helm", returncode=3)
    return Path(os.environ["HELM"])


@pytest.fixture(scope="session")
def render(helm: Path) -> Callable[[str], Manifests]:
    """Return a function that renders the chart with `ci/NAME-values.yaml`."""

    @cache
    def rendered(name: str) -> Manifests:
        values = CHART / "ci" / f"{name}-values.yaml"
        result = run_helm(helm, "template", "--values", str(values))
        assert result.returncode == 0, result.stderr
        return Manifests(result.stdout)

    return rendered
