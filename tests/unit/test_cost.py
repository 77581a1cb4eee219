"""The picture of `bench.cost`."""

from __future__ import annotations

from pathlib import Path

from bench.cost import Point
from bench.cost_picture import draw


def test_the_points_of_all_sweeps_become_a_picture(tmp_path: Path) -> None:
    costs = {"worker": 20.0, "redis": 25.0, "kafka": 5.0, "postgres": 12.0}
    points = [
        Point(sweep, customers, tenants, events, 30_000.0, costs, 10**8, customers // 2, start_s)
        for sweep, customers, tenants, events, start_s in (
            ("customers", 10_000, 1, 500_000, 2.0),
            ("customers", 100_000, 1, 500_000, 2.1),
            ("tenants", 100_000, 1, 500_000, 2.1),
            ("tenants", 100_000, 100, 500_000, 2.3),
            ("events", 100_000, 1, 1_000_000, None),
            ("events", 100_000, 1, 5_000_000, 2.2),
        )
    ]
    path = tmp_path / "cost.png"
    draw([point._asdict() for point in points], path)
    assert path.read_bytes().startswith(b"\x89PNG")
