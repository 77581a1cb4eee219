"""Alerts, recording rules and the dashboard, compared with the metrics that there are.

`python -m tests.support.promtool` runs the tests of the rules.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from store.metrics import METRICS
from store.settings import Settings
from tests.support import monitoring
from tests.support.monitoring import Expression
from tests.support.promql import names, problems

ROOT = Path(__file__).resolve().parents[2]
ALERTS = monitoring.alerts()
RECORDED = monitoring.recorded()
CASES = monitoring.rule_tests()
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
RUNBOOK_SECTION = "When an alert fires"


@pytest.mark.parametrize(
    "expression", monitoring.all_expressions(), ids=lambda expression: expression.source
)
def test_an_expression_asks_for_what_there_is(expression: Expression) -> None:
    assert problems(expression.text, RECORDED) == []


def test_every_metric_is_on_the_dashboard() -> None:
    asked = set().union(*(names(each.text) for each in monitoring.panel_expressions()))
    asked |= set().union(*(names(RECORDED[name]) for name in asked & set(RECORDED)))
    bases = asked | {name.rpartition("_")[0] for name in asked}
    assert sorted(set(METRICS) - bases) == []


def test_every_recorded_value_is_used() -> None:
    used = set().union(*(names(rule["expr"]) for rule in ALERTS.values()))
    assert sorted(set(RECORDED) - used) == []


# --- the alerts


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_severity_a_summary_and_its_entry_in_the_runbook(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"


def runbook_entries() -> dict[str, str]:
    section = RUNBOOK.partition(f"\n## {RUNBOOK_SECTION}\n")[2].partition("\n## ")[0]
    _, *parts = re.split(r"^### ", section, flags=re.MULTILINE)
    titles = [part.partition("\n")[0] for part in parts]
    assert len(set(titles)) == len(titles)
    return {title: part.partition("\n")[2] for title, part in zip(titles, parts, strict=True)}


def test_the_runbook_has_an_entry_for_each_alert_and_for_nothing_else() -> None:
    assert list(runbook_entries()) == list(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_entry_of_the_runbook_says_what_it_means_and_what_to_do(name: str) -> None:
    marks = re.findall(r"^\*\*(.+?)\*\* \S", runbook_entries()[name], re.MULTILINE)
    assert marks == ["It means.", "Look at.", "Do."]


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(name: str) -> None:
    """A case that lacks a metric of the alert would be silent for that reason."""
    assert name in firing(CASES[f"{name} fires"])
    silent = CASES[f"{name} is silent"]
    assert name not in firing(silent)
    asked = names(ALERTS[name]["expr"])
    asked = set().union(*(names(RECORDED[each]) if each in RECORDED else {each} for each in asked))
    given = {series["series"].partition("{")[0] for series in silent["input_series"]}
    assert asked <= given


def firing(case: dict[str, Any]) -> set[str]:
    """Return the alerts that must fire in a case."""
    (expected,) = case["promql_expr_test"]
    labels = [sample["labels"] for sample in expected["exp_samples"]]
    return {found for text in labels for found in re.findall(r'^{alertname="(\w+)"}$', text)}


def test_series_of_the_cases_are_those_that_there_are() -> None:
    series = {each["series"] for case in CASES.values() for each in case["input_series"]}
    assert {text: problems(text, ()) for text in series if problems(text, ())} == {}


def test_waiting_for_history_alerts_at_80_percent_of_the_default_limit() -> None:
    limit = Settings().history_buffer_events * 8 // 10
    assert ALERTS["HistoryBehind"]["expr"].split()[-1] == str(limit)
    (panel,) = [
        panel
        for panel in monitoring.dashboard()["panels"]
        if panel["title"] == "Waiting for PostgreSQL"
    ]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"] == limit


def test_objectives_of_the_operations_guide_are_those_of_the_alerts() -> None:
    """The budget is what 100% lacks; the limit in seconds is a bucket of the recorded ratio."""
    text = (ROOT / "docs/operations.md").read_text()
    section = text.partition("### Objectives")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| (\w[\w ]+) \| ([\d.]+)% ([^|]+) \|", section, re.MULTILINE)
    assert [title for title, _, _ in rows] == ["freshness", "availability", "read latency"]
    for title, percent, rest in rows:
        limits_s = re.findall(r"within ([\d.]+) s", rest)
        alert = "".join(word.title() for word in title.split())
        budgets = {
            budget
            for speed in ("Fast", "Slowly")
            for budget in re.findall(r"\* ([\d.]+)", ALERTS[f"{alert}BudgetBurns{speed}"]["expr"])
        }
        assert [f"{100 - 100 * float(budget):g}" for budget in budgets] == [percent]
        name = f"interaction_summary:{title.replace(' ', '_')}_errors:ratio_rate5m"
        assert re.findall(r'le="([\d.]+)"', RECORDED[name]) == limits_s


# --- the dashboard


def test_panels_have_a_description_and_places_of_their_own() -> None:
    panels = monitoring.dashboard()["panels"]
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == ["Overview", "Worker", "Stores", "API"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    shown = [panel for panel in panels if panel["type"] != "row"]
    for panel in shown:
        assert panel["description"] and panel["targets"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
    taken = [
        (x, y)
        for panel in panels
        for at in [panel["gridPos"]]
        for x, y in itertools.product(
            range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        )
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


# --- the check of expressions


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("sum(", "syntax: unclosed left parenthesis"),
        ("interaction_summary_countd_total", "no metric interaction_summary_countd_total"),
        ("up == 0", "no metric up"),
        ("interaction_summary_counted", "no metric interaction_summary_counted"),
        ("interaction_summary_visible_seconds", "no metric interaction_summary_visible_seconds"),
        ("interaction_summary_counted_total_bucket", "no metric"),
        ('{reading="live"}', "no metric None"),
        ('interaction_summary_counted_total{tenant="a"}', "has no label tenant"),
        ('interaction_summary_visible_seconds_sum{le="0.25"}', "has no label le"),
        ('interaction_summary_visible_seconds_bucket{le="0.3"}', "has no le='0.3'"),
        ('interaction_summary_retries_total{store="redis"}', "has no store='redis'"),
        ('interaction_summary_retries_total{store=~"kafka|pg"}', "has no store='pg'"),
        ("sum by (reason) (interaction_summary_retries_total)", "no label reason in"),
        ("rate(interaction_summary_worker_lag_events[5m])", "a gauge"),
        ("deriv(interaction_summary_counted_total[5m])", "a counter"),
    ],
)
def test_the_check_finds_what_is_wrong(expression: str, problem: str) -> None:
    (found,) = problems(expression, ())
    assert problem in found
