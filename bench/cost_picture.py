"""The picture of `bench.cost`: one row per measure, one column per thing that grows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

#: What grows -> the field that has it.
_SWEEPS: Final = {"customers": "customers", "events": "events", "tenants": "tenants"}
_PROCESSES: Final = ("worker", "redis", "kafka", "postgres")
_LABELS: Final = {
    "customers": "customers of the traffic",
    "events": "events counted so far",
    "tenants": "tenants",
}

_Line = tuple[str, Callable[[Mapping[str, Any]], float | None]]


def _lines(processes: Sequence[str]) -> list[tuple[str, list[_Line]]]:
    """Return (label of the axis, lines) of each row."""
    return [
        ("events/s", [("", lambda p: p["events_s"])]),
        ("µs of processor per event", [(name, partial(_cost_of, name)) for name in processes]),
        ("Redis, MiB", [("", lambda p: p["redis_bytes"] / 2**20)]),
        ("start of a worker, s", [("", lambda p: p["start_s"])]),
    ]


def _cost_of(process: str, point: Mapping[str, Any]) -> float:
    return float(point["cost_us"][process])


def draw(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the points of `bench.cost` into a PNG file."""
    import matplotlib  # only needed here: the extra `plot`

    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    processes = [name for name in _PROCESSES if name in points[0]["cost_us"]]
    rows = _lines(processes)
    sweeps = [sweep for sweep in _SWEEPS if any(p["sweep"] == sweep for p in points)]
    figure, axes = pyplot.subplots(
        len(rows), len(sweeps), figsize=(4 * len(sweeps), 2.4 * len(rows)), squeeze=False,
        sharex="col", sharey="row", layout="constrained",
    )  # fmt: skip
    for column, sweep in enumerate(sweeps):
        for axis in axes[:, column] if sweep != "events" else ():
            axis.set_xscale("log")
        of_sweep = [p for p in points if p["sweep"] == sweep]
        for row, (label, lines) in enumerate(rows):
            axis = axes[row][column]
            for name, value in lines:
                known = [(p[_SWEEPS[sweep]], y) for p in of_sweep if (y := value(p)) is not None]
                axis.plot(*zip(*known, strict=True), marker="o", label=name)
            axis.grid(alpha=0.3)
            axis.margins(y=0.15)
            axis.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
            if column == 0:
                axis.set_ylabel(label)
            if column == 0 and len(lines) > 1:
                axis.legend(fontsize="small")
        axes[-1][column].set_xlabel(_LABELS[sweep])
    for row_axes in axes:
        row_axes[0].set_ylim(bottom=0)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
