"""The catalog document: valid documents, and the messages of errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import UNSET

from store.catalog_document import (
    CatalogError,
    OfferItem,
    TreatmentItem,
    dump_document,
    parse_document,
)
from store.records import Channel, Creative, Offer, OutcomeType
from tests.support.catalogs import FULL_CATALOG


def parse(document: object) -> Any:
    return parse_document(json.dumps(document))


def test_every_field_reaches_its_record() -> None:
    document = parse(FULL_CATALOG)
    assert (document.tenant, document.timezone) == ("acme", "Europe/Berlin")
    assert document.offer_records() == {"o": Offer("o", "Offer", "Growth", "Cards", "active", 7)}
    assert document.creative_records() == {
        "c": Creative("c", "T", "o", "h", "html", "A", 0.5, "active")
    }
    assert document.channel_records() == {"h": Channel("h", "Mail", "email", "active")}
    assert document.outcome_type_records() == {
        "save": OutcomeType("save", "Saved", "positive", "response")
    }


def test_every_part_is_optional() -> None:
    document = parse({})
    assert (document.tenant, document.timezone, document.offers) == ("default", UNSET, UNSET)
    assert parse({"offers": []}).offers == []


def test_a_field_that_an_item_lacks_is_null() -> None:
    document = parse({"offers": [{"id": "o"}], "outcomeTypes": [{"key": "k", "classification": "neutral"}]})  # fmt: skip  # noqa: E501
    assert document.offer_records() == {"o": Offer("o")}
    assert document.outcome_type_records() == {"k": OutcomeType("k", "k", "neutral", "response")}


def test_what_is_written_reads_back_the_same() -> None:
    document = parse(FULL_CATALOG)
    assert parse_document(dump_document(document)) == document
    assert json.loads(dump_document(document)) == FULL_CATALOG
    assert parse_document(b"\xef\xbb\xbf" + dump_document(document)) == document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"offers": [{"id": "a"}, {"id": "b", "isue": "x"}]},
         "offers[1]: unknown field 'isue'; the fields are id, name, issue, group, status, "
         "priority"),
        ({"offer": []},
         "unknown field 'offer'; the fields are tenant, timezone, offers, treatments, channels, "
         "outcomeTypes"),
        ({"treatments": [{"id": "a", "offer_id": "o"}]},
         "treatments[0]: unknown field 'offer_id'; the fields are id, name, offerId, channelId, "
         "templateType, abTestVariant, weight, status"),
        ({"tenant": "a b"}, "tenant: expected 1 to 64 characters of A-Z a-z 0-9 _ . -"),
        ({"tenant": "*"}, "tenant: expected 1 to 64 characters of A-Z a-z 0-9 _ . -"),
        ({"tenant": "a\n"}, "tenant: expected 1 to 64 characters of A-Z a-z 0-9 _ . -"),
        ({"tenant": "a" * 65}, "tenant: expected 1 to 64 characters of A-Z a-z 0-9 _ . -"),
        ({"timezone": "Mars/Olympus"},
         "timezone: 'Mars/Olympus' is not an IANA time zone name, such as Europe/Berlin"),
        ({"offers": [{"name": "x"}]}, "offers[0]: Object missing required field `id`"),
        ({"offers": [{"id": ""}]}, "offers[0].id: Expected `str` of length >= 1"),
        ({"channels": [{"id": "x" * 129}]}, "channels[0].id: Expected `str` of length <= 128"),
        ({"offers": [{"id": "a\0"}]}, "offers[0].id: a NUL character is not allowed"),
        ({"offers": [{"id": "a", "name": "\0"}]}, "offers[0].name: a NUL character is not allowed"),
        ({"offers": [{"id": "a", "priority": "high"}]},
         "offers[0].priority: Expected `int | null`, got `str`"),
        ({"offers": [{"id": "a", "priority": 2**31}]},
         "offers[0].priority: Expected `int` <= 2147483647"),
        ({"treatments": [{"id": "a", "weight": "50"}]},
         "treatments[0].weight: Expected `float | null`, got `str`"),
        ({"offers": None}, "offers: Expected `array`, got `null`"),
        ({"offers": [{"id": "a"}, {"id": "b"}, {"id": "a"}]},
         "offers[2].id: 'a' is given already in offers[0]"),
        ({"outcomeTypes": [{"key": "k", "classification": "good"}]},
         "outcomeTypes[0].classification: Invalid enum value 'good'; expected positive, negative "
         "or neutral"),
        ({"outcomeTypes": [{"key": "k"}]},
         "outcomeTypes[0]: Object missing required field `classification`"),
        ({"outcomeTypes": [{"key": str(i), "classification": "neutral"} for i in range(1_001)]},
         "outcomeTypes: Expected `array` of length <= 1000"),
        ([], "Expected `object`, got `array`"),
    ],
)  # fmt: skip
def test_an_error_says_where_and_what_is_allowed(document: object, message: str) -> None:
    with pytest.raises(CatalogError) as refused:
        parse(document)
    assert str(refused.value) == message


def test_a_system_type_cannot_be_redefined() -> None:
    with pytest.raises(CatalogError, match=r"outcomeTypes\[0\]\.key: 'click' is a system type"):
        parse({"outcomeTypes": [{"key": "click", "classification": "positive"}]})


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"tenant": "\xff"}', b'{"tenant":"\\ud800"}'])  # fmt: skip  # noqa: E501
def test_what_is_not_json_is_an_error(data: bytes) -> None:
    with pytest.raises(CatalogError, match="not a JSON document"):
        parse_document(data)


def test_a_whole_number_may_have_a_fraction_of_zero() -> None:
    """JSON Schema says so, and some languages write it so."""
    document = parse_document(b'{"offers": [{"id": "5.0", "priority": 5.0}, {"id": "x"}]}')
    assert document.offers == [OfferItem(id="5.0", priority=5), OfferItem(id="x")]
    assert parse_document(b'{"treatments": [{"id": "x", "weight": 5.0}]}').treatments == [
        TreatmentItem(id="x", weight=5.0)
    ]
    for wrong in (b"5.5", b'"5"', b"1e300", b"true"):
        with pytest.raises(CatalogError, match="priority"):
            parse_document(b'{"offers": [{"id": "x", "priority": %b}]}' % wrong)
