"""Real interactions: every response equals a plain count, from counters and from history."""

from __future__ import annotations

import gzip
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support import expected
from tests.support.answers import all_answers
from tests.support.program import Program, read_topic
from tests.support.services.base import Services

DATA = Path(__file__).parents[1] / "data"
FILE = Path(os.environ.get("INTERACTION_DATA") or DATA / "open-bandit-cut.jsonl.gz").absolute()
CATALOG = DATA / "open-bandit-catalog.json"
TENANT = "zozo"


def test_every_answer_on_real_interactions_equals_a_plain_count(
    services: Services, program: Program
) -> None:
    recorded = gzip.decompress(FILE.read_bytes()).splitlines()
    catalog = json.loads(CATALOG.read_bytes())
    assert "tables: up to date" in program.run("migrate")
    output = program.run("catalog", "import", str(CATALOG))
    assert f"offers: {len(catalog['offers'])} added, 0 changed, 0 unchanged" in output
    began = datetime.now(UTC)
    output = program.run("load", "--shift-to-now", str(FILE))
    ended = datetime.now(UTC)
    assert output.startswith(f"{len(recorded)} events acknowledged"), output
    worker, api = program.worker(), program.api()
    program.wait_for(counted=len(recorded), stored=len(recorded), alive=[worker])

    status = json.loads(program.run("status", "--json"))
    assert (status["lag"], status["historyLag"], status["errors"]) == (0, 0, {})
    assert [(t["tenant"], t["complete"]) for t in status["tenants"]] == [(TENANT, True)]

    events = expected.distinct(r.value for r in read_topic(program.settings, status["topic"]))
    assert len(events) == len(recorded)
    assert_moved_to_now(recorded, events, began, ended)
    counters = all_answers(api, "materialized", TENANT, events, catalog)
    services.redis.stop()
    history = all_answers(api, "history", TENANT, events, catalog)
    assert history == counters


def assert_moved_to_now(
    recorded: list[bytes], events: list[dict[str, Any]], began: datetime, ended: datetime
) -> None:
    """Check that the topic has the events of the file, all times shifted by the same amount."""
    before = {p["interactionId"]: p for p in (json.loads(line)["payload"] for line in recorded)}
    moved_by = {
        datetime.fromisoformat(event["timestamp"])
        - datetime.fromisoformat(before[event["interactionId"]]["timestamp"])
        for event in events
    }
    assert len(moved_by) == 1
    last = max(datetime.fromisoformat(event["timestamp"]) for event in events)
    assert began.replace(microsecond=began.microsecond // 1_000 * 1_000) <= last <= ended
    for event in events:
        assert event | {"timestamp": ""} == before[event["interactionId"]] | {"timestamp": ""}
