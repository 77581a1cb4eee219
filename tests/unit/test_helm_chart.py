"""The Helm chart, compared with the code that it runs, without helm; `.ci/helm` renders it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from store.secret_files import SUFFIX
from store.settings import SECRETS, Settings
from tests.support.helm_chart import CHART, ROOT

SETTINGS = {name.upper() for name in Settings.model_fields}
FILES = {f"{name.upper()}{SUFFIX}" for name in SECRETS}
#: What Kubernetes gives a pod, not a setting.
POD = {"POD_NAME", "POD_NAMESPACE"}
TEMPLATES = sorted((CHART / "templates").glob("*"))
VALUES = [CHART / "values.yaml", *sorted(CHART.glob("ci/*-values.yaml"))]
META: dict[str, Any] = yaml.safe_load((CHART / "Chart.yaml").read_text())


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_every_setting_that_a_template_names_exists(path: Path) -> None:
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z0-9]+)+\b", path.read_text()))
    assert named - SETTINGS - FILES - POD == set()


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.name)
def test_every_setting_that_values_set_exists(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    parts = [values, *(values.get(name, {}) for name in ("worker", "api", "migrate"))]
    given = {name for part in parts for name in part.get("settings", {})}
    assert {name for name in given if not name.startswith("OTEL_")} - SETTINGS == set()


def test_the_chart_knows_which_settings_are_secret() -> None:
    checks = (CHART / "templates/checks.yaml").read_text()
    listed = re.search(r"\$secret := list (.*) -}}", checks)
    assert listed is not None
    assert set(re.findall(r'"(\w+)"', listed[1])) == {name.upper() for name in SECRETS}


def test_the_chart_installs_this_version_of_the_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert META["appVersion"] == project["version"]


def test_manifests_are_checked_for_the_oldest_kubernetes_that_the_chart_allows() -> None:
    versions = re.search(r'VERSIONS = \("(.*?)"', (ROOT / ".ci/helm_schemas.py").read_text())
    assert versions is not None
    assert META["kubeVersion"] == f">={versions[1]}.0-0"


def test_the_chart_has_the_alert_rules_of_the_other_deployments() -> None:
    """A chart is packaged alone, so it has copies."""
    rules = {path.name: path.read_text() for path in (ROOT / "deploy/prometheus").glob("*.yml")}
    assert {path.name: path.read_text() for path in (CHART / "files").iterdir()} == rules
