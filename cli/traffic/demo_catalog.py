"""Catalog of a fictional bank, for the demo and for synthetic events. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple


class Treatment(NamedTuple):
    id: str
    offer_id: str
    channel_id: str


#: id, name, type, direction.
_CHANNELS: Final = (
    ("ch_web", "Website", "web", "inbound"),
    ("ch_app", "Mobile app", "mobile", "inbound"),
    ("ch_email", "E-mail", "email", "outbound"),
    ("ch_call", "Call center", "voice", "inbound"),
)
_TEMPLATES: Final = {
    "ch_web": "hero_banner",
    "ch_app": "in_app_card",
    "ch_email": "email_html",
    "ch_call": "agent_script",
}
#: name, issue, group, status, priority; the most frequently shown offer first.
_OFFERS: Final = (
    ("Gold credit card", "Acquisition", "Cards", "active", 90),
    ("Savings plus", "Growth", "Savings", "active", 80),
    ("Mobile app setup", "Service", "Digital", "active", 40),
    ("Travel insurance", "Growth", "Insurance", "active", 70),
    ("Mortgage rate lock", "Acquisition", "Loans", "active", 95),
    ("Cashback week", "Retention", "Cards", "active", 60),
    ("Paperless statements", "Service", "Digital", "active", 30),
    ("Personal loan", "Acquisition", "Loans", "active", 85),
    ("Overdraft alert", "Service", "Accounts", "active", 20),
    ("Student account", "Acquisition", "Accounts", "active", 50),
    ("Fund savings plan", "Growth", "Investments", "active", 75),
    ("Loyalty bonus", "Retention", "Accounts", "active", 65),
    ("Home insurance", "Growth", "Insurance", "active", 55),
    ("Fee waiver", "Retention", "Accounts", "active", 88),
    ("Refer a friend", "Acquisition", "Accounts", "active", 35),
    ("Green car loan", "Growth", "Loans", "active", 45),
    ("Fraud protection", "Service", "Cards", "active", 58),
    ("Private banking", "Growth", "Investments", "draft", 92),
    ("Summer rate", "Retention", "Savings", "paused", 15),
    ("Holiday credit", "Acquisition", "Loans", "archived", 5),
)
DEMO_OUTCOME_TYPE: Final = "shared"
"""Custom outcome type of the demo tenant."""

OFFER_IDS: Final = tuple(f"off_{i:03}" for i in range(1, len(_OFFERS) + 1))
DIRECTIONS: Final = {channel[0]: channel[3] for channel in _CHANNELS}
#: Offer id -> its two treatments, variants A and B, both of one channel.
TREATMENTS: Final[dict[str, tuple[Treatment, Treatment]]] = {
    offer: (
        Treatment(offer.replace("off", "cr") + "_a", offer, _CHANNELS[i % len(_CHANNELS)][0]),
        Treatment(offer.replace("off", "cr") + "_b", offer, _CHANNELS[i % len(_CHANNELS)][0]),
    )
    for i, offer in enumerate(OFFER_IDS)
}


def demo_catalog(tenant: str) -> dict[str, Any]:
    """Return the demo's catalog as a document for `catalog import`."""
    return {
        "tenant": tenant,
        "timezone": "UTC",
        "offers": [
            {
                "id": id_,
                "name": name,
                "issue": issue,
                "group": group,
                "status": status,
                "priority": priority,
            }
            for id_, (name, issue, group, status, priority) in zip(OFFER_IDS, _OFFERS, strict=True)
        ],
        "treatments": [
            _treatment(treatment, "AB"[i], status=offer[3], name=offer[0])
            for id_, offer in zip(OFFER_IDS, _OFFERS, strict=True)
            for i, treatment in enumerate(TREATMENTS[id_])
        ],
        "channels": [
            {"id": id_, "name": name, "channelType": kind, "status": "active"}
            for id_, name, kind, _ in _CHANNELS
        ],
        "outcomeTypes": [
            {
                "key": DEMO_OUTCOME_TYPE,
                "name": "Shared with a friend",
                "classification": "positive",
                "category": "response",
            }
        ],
    }


def _treatment(treatment: Treatment, variant: str, *, status: str, name: str) -> dict[str, Any]:
    return {
        "id": treatment.id,
        "name": f"{name} {variant}",
        "offerId": treatment.offer_id,
        "channelId": treatment.channel_id,
        "templateType": _TEMPLATES[treatment.channel_id],
        "abTestVariant": variant,
        "weight": 60 if variant == "A" else 40,
        "status": status,
    }
