"""Expressions of Prometheus, compared with the metrics that the program has."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, NamedTuple

import promql_parser
from prometheus_client import Histogram
from prometheus_client.utils import floatToGoString

from store import metrics
from store.metrics import METRICS, Described

#: Label that Prometheus adds to every series that it scrapes.
TARGET_LABELS: Final = {"instance"}
_OF_COUNTERS: Final = {"rate", "irate", "increase", "resets"}
_OF_GAUGES: Final = {"delta", "idelta", "deriv", "predict_linear"}
#: Variables of Grafana that stand for a duration.
_DURATIONS: Final = re.compile(r"\$__(rate_interval|interval|range)\b")
_BUCKETS: Final = {
    metric._name: {
        floatToGoString(bound)  # type: ignore[no-untyped-call]
        for bound in metric._upper_bounds
    }
    for metric in vars(metrics).values()
    if isinstance(metric, Histogram)
}


class Series(NamedTuple):
    """What one selector of an expression asks for."""

    name: str
    kind: str
    """`counter`, `gauge` or `recorded`."""
    values: dict[str, Collection[str]]
    """Label -> its values; none where they are not known."""


def with_durations(expression: str) -> str:
    """Return an expression of a dashboard with a duration in place of Grafana's variables."""
    return _DURATIONS.sub("5m", expression)


def names(expression: str) -> set[str]:
    """Return the names that the selectors of an expression have."""
    return {node.name or "" for node in _nodes(_parse(expression), promql_parser.VectorSelector)}


def problems(expression: str, recorded: Collection[str]) -> list[str]:
    """Return what is wrong with an expression: its syntax, or what the program does not have.

    `recorded`: names that recording rules give.
    """
    try:
        tree = _parse(expression)
    except ValueError as error:
        return [f"syntax: {error}"]
    return [
        *_selector_problems(tree, recorded),
        *_label_problems(tree, recorded),
        *_function_problems(tree, recorded),
    ]


def _parse(expression: str) -> Any:
    return promql_parser.parse(with_durations(expression))


def _nodes(tree: Any, kind: type[Any]) -> list[Any]:
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, kind):
            found.append(node)

    promql_parser.walk(tree, visit)
    return found


def _series(name: str | None, recorded: Collection[str]) -> Series | None:
    """Return what there is of this name; None: nothing."""
    if name is None:
        return None
    if name in recorded:
        return Series(name, "recorded", {})
    base, _, suffix = name.rpartition("_")
    if name in METRICS and METRICS[name].type != "histogram":
        return Series(name, METRICS[name].type, _values(METRICS[name]))
    if suffix in {"bucket", "sum", "count"} and base in METRICS:
        metric = METRICS[base]
        if metric.type == "histogram":
            buckets = {"le": _BUCKETS[base]} if suffix == "bucket" else {}
            return Series(name, "counter", {**_values(metric), **buckets})
    return None


def _values(metric: Described) -> dict[str, Collection[str]]:
    return dict(metric.values)


def _selector_problems(tree: Any, recorded: Collection[str]) -> Iterator[str]:
    for selector in _nodes(tree, promql_parser.VectorSelector):
        series = _series(selector.name, recorded)
        if series is None:
            yield f"no metric {selector.name}"
            continue
        for matcher in selector.matchers.matchers:
            if matcher.name in TARGET_LABELS:
                continue
            if matcher.name not in series.values:
                yield f"{series.name} has no label {matcher.name}"
                continue
            known = series.values[matcher.name]
            for value in _alternatives(matcher):
                if known and value not in known:
                    yield f"{series.name} has no {matcher.name}={value!r}"


def _alternatives(matcher: Any) -> list[str]:
    """Return the values that a matcher names: one, or those between `|` in a regular expression."""
    value: str = matcher.value
    is_regex = matcher.op in (promql_parser.MatchOp.Re, promql_parser.MatchOp.NotRe)
    return value.split("|") if is_regex else [value]


def _label_problems(tree: Any, recorded: Collection[str]) -> Iterator[str]:
    """Yield the labels of `by`, `on` and so on that nothing below them has."""
    for node in _nodes(tree, promql_parser.AggregateExpr):
        if node.modifier is not None:
            yield from _missing(node.modifier.labels, node.expr, recorded)
    for node in _nodes(tree, promql_parser.BinaryExpr):
        if node.modifier is not None and node.modifier.matching is not None:
            for side in (node.lhs, node.rhs):
                yield from _missing(node.modifier.matching.labels, side, recorded)


def _missing(labels: Sequence[str], tree: Any, recorded: Collection[str]) -> Iterator[str]:
    known = set(TARGET_LABELS)
    for selector in _nodes(tree, promql_parser.VectorSelector):
        series = _series(selector.name, recorded)
        known |= set(series.values) if series else set()
    yield from (f"no label {label} in {tree}" for label in labels if label not in known)


def _function_problems(tree: Any, recorded: Collection[str]) -> Iterator[str]:
    """Yield functions of counters on gauges, and the other way round."""
    for call in _nodes(tree, promql_parser.Call):
        function = call.func.name
        for selector in _nodes(call, promql_parser.VectorSelector):
            series = _series(selector.name, recorded)
            if series is None:
                continue
            if function in _OF_COUNTERS and series.kind != "counter":
                yield f"{function}() of {series.name}, a {series.kind}"
            if function in _OF_GAUGES and series.kind == "counter":
                yield f"{function}() of {series.name}, a counter"
