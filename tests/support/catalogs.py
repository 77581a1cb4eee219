"""Catalog documents for tests."""

from __future__ import annotations

from typing import Any

#: One entry of each kind, with every field.
FULL_CATALOG: dict[str, Any] = {
    "tenant": "acme",
    "timezone": "Europe/Berlin",
    "offers": [
        {
            "id": "o", "name": "Offer", "issue": "Growth", "group": "Cards", "status": "active",
            "priority": 7,
        }
    ],
    "treatments": [
        {
            "id": "c", "name": "T", "offerId": "o", "channelId": "h", "templateType": "html",
            "abTestVariant": "A", "weight": 0.5, "status": "active",
        }
    ],
    "channels": [{"id": "h", "name": "Mail", "channelType": "email", "status": "active"}],
    "outcomeTypes": [
        {"key": "save", "name": "Saved", "classification": "positive", "category": "response"}
    ],
}  # fmt: skip
