"""The files of `deploy/`: alerts, recording rules, their tests, and the dashboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
PROMETHEUS: Final = ROOT / "deploy/prometheus"
ALERTS: Final = PROMETHEUS / "alerts.yml"
RECORDING: Final = PROMETHEUS / "recording.yml"
RULE_TESTS: Final = tuple(sorted((PROMETHEUS / "tests").glob("*.yml")))
DASHBOARD: Final = ROOT / "deploy/grafana/interaction-summary.json"


class Expression(NamedTuple):
    """An expression, and where it is from."""

    source: str
    text: str


def rules(path: Path) -> list[dict[str, Any]]:
    """Return the rules of all groups of a file."""
    groups = yaml.safe_load(path.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """Return alert -> its rule, in the order of the file."""
    found = {rule["alert"]: rule for rule in rules(ALERTS)}
    assert len(found) == len(rules(ALERTS)), "two alerts have one name"
    return found


def recorded() -> dict[str, str]:
    """Return recorded name -> expression."""
    return {rule["record"]: rule["expr"] for rule in rules(RECORDING)}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panel_expressions() -> Iterator[Expression]:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield Expression(f"{panel['title']} {target['refId']}", target["expr"])


def all_expressions() -> list[Expression]:
    """Return every expression of the rules and the dashboard."""
    return [
        *(Expression(name, rule["expr"]) for name, rule in alerts().items()),
        *(Expression(name, text) for name, text in recorded().items()),
        *panel_expressions(),
    ]


def rule_tests() -> dict[str, dict[str, Any]]:
    """Return name -> case, of the files that `promtool test rules` runs."""
    cases = [case for path in RULE_TESTS for case in yaml.safe_load(path.read_text())["tests"]]
    found = {case["name"]: case for case in cases}
    assert len(found) == len(cases), "two cases have one name"
    return found
