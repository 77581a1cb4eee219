"""Metrics: each series whose label values are known exists from the start, with 0.

A counter that first appears with 1 has not increased, as Prometheus sees it: `increase()` is 0, and
an alert on it stays silent.
"""

from __future__ import annotations

import ast
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from store import metrics
from store.metrics import METRICS, Part
from store.records import GROUPINGS
from streams.decode.rejection import Reason

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("part", ["api", "worker"])
def test_every_series_exists_in_a_new_process_with_0(part: Part) -> None:
    code = f"from store.metrics import exposition; print(exposition({part!r}).decode())"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    samples = [s for f in text_string_to_metric_families(text.stdout) for s in f.samples]
    for name, metric in METRICS.items():
        series = f"{name}_count" if metric.type == "histogram" else name
        found = [sample for sample in samples if sample.name == series]
        if ("_api_" in name) != (part == "api"):
            assert found == []
            continue
        assert len(found) == math.prod(len(metric.values[label]) for label in metric.labels)
        for label in metric.labels:
            assert {sample.labels[label] for sample in found} == set(metric.values[label])
        assert {sample.value for sample in found} <= {0}


def test_only_what_requests_decide_is_not_known_at_the_start() -> None:
    unknown = {
        label for metric in METRICS.values() for label in metric.labels if not metric.values[label]
    }
    assert unknown == {"route", "status"}


def test_label_values_are_those_that_the_code_uses() -> None:
    values = {name: metric.values for name, metric in METRICS.items()}
    used: dict[str, set[str]] = {}
    for attribute, label_value in _literal_labels("api", "streams"):
        used.setdefault(getattr(metrics, attribute)._name, set()).add(label_value)
    used["interaction_summary_retries"] = set(_retried_stores())
    assert len(used) >= 5
    for name, found in used.items():
        of_metric = values[f"{name}_total"]
        (known,) = of_metric.values()
        assert set(known) == found, name
    reasons = {str(reason) for reason in Reason}
    assert set(values["interaction_summary_dead_letters_total"]["reason"]) == reasons
    assert set(values["interaction_summary_quarantined_total"]["reason"]) == reasons
    assert values["interaction_summary_over_limit_total"]["grouping"] == (
        *GROUPINGS,
        "customer_offers",
    )


def test_reasons_of_fallbacks_are_those_of_the_operations_guide() -> None:
    """Those of the guide are those of the code, by test_docs.py."""
    text = (ROOT / "docs/operations.md").read_text()
    section = text.partition("## Why history answers")[2].partition("\n## ")[0]
    reasons = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    known = METRICS["interaction_summary_api_fallbacks_total"].values["reason"]
    assert sorted(known) == sorted(reasons)


def _calls(*packages: str) -> Iterator[ast.Call]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and node.args:
                    yield node


def _literal_labels(*packages: str) -> Iterator[tuple[str, str]]:
    """Yield the constant and the value of the calls `metrics.CONSTANT.labels("value")`."""
    for call in _calls(*packages):
        function, value = call.func, call.args[0]
        if (
            isinstance(function, ast.Attribute)
            and function.attr == "labels"
            and isinstance(function.value, ast.Attribute)
            and isinstance(value, ast.Constant)
        ):
            yield function.value.attr, str(value.value)


def _retried_stores() -> Iterator[str]:
    """Yield the first argument of the calls `retry("store", …)`."""
    for call in _calls("streams"):
        value = call.args[0]
        if isinstance(call.func, ast.Name) and call.func.id == "retry":
            assert isinstance(value, ast.Constant), "the label of a metric: a constant"
            yield str(value.value)
