"""The contract's sample row through Kafka, worker and API."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from tests.support.program import Program
from tests.support.services.base import Services

CATALOG = {
    "tenant": "acme",
    "offers": [
        {"id": "off_001", "name": "Gold card", "issue": "Growth", "group": "Cards",
         "status": "active", "priority": 90}
    ],
    "treatments": [
        {"id": "cr_001", "name": "Gold card banner", "offerId": "off_001", "channelId": "ch_001",
         "templateType": "hero_banner", "abTestVariant": "A", "weight": 60, "status": "active"},
        {"id": "cr_002", "name": "Old", "channelId": "ch_001", "status": "archived"},
    ],
    "channels": [{"id": "ch_001", "name": "Website", "channelType": "web", "status": "active"}],
}  # fmt: skip
SAMPLE = {"impression": 1250, "click": 87, "dismiss": 45, "convert": 32}
COLUMNS = {"impression": 1250, "click": 87, "dismiss": 45, "accept": 0, "convert": 32}


def sample_events() -> list[bytes]:
    """Return events, half in the platform's envelope and half bare; half with legacy names."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    lines = []
    for outcome, n in SAMPLE.items():
        for i in range(n):
            payload = {
                "interactionId": f"{outcome}-{i}",
                "tenantId": "acme",
                "customerId": "C-1234",
                "actionId" if i % 4 < 2 else "offerId": "off_001",
                "treatmentId" if i % 4 < 2 else "creativeId": "cr_001",
                "channelId": "ch_001",
                "interactionType": outcome,
                "timestamp": now,
            }
            document = {"type": "interaction.recorded.v1", "timestamp": now, "payload": payload}
            lines.append(json.dumps(document if i % 2 else payload).encode())
    return lines


def test_the_sample_row_is_answered_as_in_the_contract(
    services: Services, program: Program
) -> None:
    program.run("catalog", "import", "-", stdin=json.dumps(CATALOG).encode())
    output = program.run("load", "-", stdin=b"\n".join(sample_events()))
    assert output.startswith("1414 events acknowledged"), output
    worker, api = program.worker(), program.api()
    program.wait_for(counted=1414, stored=1414, alive=[worker])

    rates = {"ctr": 6.96, "cvr": 2.56}
    rows = {
        "action": {
            "id": "off_001", "name": "Gold card", "issue": "Growth", "group": "Cards",
            "status": "active", "priority": 90, **COLUMNS, "total": 1414, **rates,
            "positive": 87, "negative": 45, "neutral": 1118,
        },
        "treatment": {
            "id": "cr_001", "name": "Gold card banner", "offerName": "Gold card",
            "channelType": "web", "channelName": "Website", "templateType": "hero_banner",
            "abTestVariant": "A", "weight": 60, "status": "active",
            **COLUMNS, "total": 1414, **rates,
        },
        "channel": {
            "id": "ch_001", "name": "Website", "channelType": "web", "treatmentCount": 1,
            **COLUMNS, "total": 1414, "ctr": 6.96,
        },
        "customer": {"customerId": "C-1234", "total": 1414, **COLUMNS, "uniqueActions": 1},
    }  # fmt: skip
    answers = {}
    for group_by, row in rows.items():
        body = {"groupBy": group_by, "days": 7, "summary": [row], "total": 1}
        body |= {"limit": 100, "offset": 0}
        answer = api.summary("acme", groupBy=group_by, days=7)
        assert answer.headers["X-Summary-Source"] == "materialized"
        assert list(answer.json().items()) == list(body.items())
        assert list(answer.json()["summary"][0].items()) == list(row.items())
        answers[group_by] = answer.content
    services.redis.stop()
    for group_by, content in answers.items():
        answer = api.summary("acme", groupBy=group_by, days=7)
        assert answer.headers["X-Summary-Source"] == "history"
        assert answer.content == content
