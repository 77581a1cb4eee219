"""Decoder: every rule of an event, and the fast reader compared with the strict one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.records import Event
from store.windows import INSTANT_MAX_MS, INSTANT_MIN_MS
from streams.decode.decoder import Decoder
from streams.decode.event import identity
from streams.decode.fast import read_fast
from streams.decode.rejection import (
    InvalidEventError,
    Reason,
    Rejected,
    Skipped,
    reject,
    unregistered_type,
)
from streams.decode.strict import read_strict
from streams.decode.timestamps import format_ms
from tests.support import decoder_fuzz

NOW_MS = 1_795_521_600_000
NOW = format_ms(NOW_MS)
DECODER = Decoder(future_tolerance_s=300, event_bytes_max=1_048_576)

PAYLOAD: dict[str, Any] = {
    "interactionId": "0f8b",
    "tenantId": "acme",
    "customerId": "C-1234",
    "offerId": "off_001",
    "creativeId": "cr_001",
    "channelId": "ch_001",
    "interactionType": "impression",
    "outcomeTypeKey": "impression",
    "direction": "outbound",
    "campaignId": None,
    "recommendationId": "3d6c",
    "conversionValue": 12.5,
    "timestamp": "2026-11-23T09:15:02.113Z",
}
OCCURRED_MS = 1_795_425_302_113


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in PAYLOAD.items() if name not in names}


def as_bytes(document: object, **kwargs: Any) -> bytes:
    return json.dumps(document, **kwargs).encode("utf-8", "surrogatepass")


def read(document: object) -> Event | Skipped | Rejected:
    return DECODER.decode(document if isinstance(document, bytes) else as_bytes(document), NOW_MS)


def event_of(document: object) -> Event:
    event = read(document)
    assert isinstance(event, Event), event
    return event


def rejection_of(document: object) -> Rejected:
    rejection = read(document)
    assert isinstance(rejection, Rejected), rejection
    return rejection


def envelope(payload: object, **fields: Any) -> dict[str, Any]:
    return {
        "type": "interaction.recorded.v1",
        "timestamp": "2026-11-23T09:00:00.000Z",
        "payload": payload,
        **fields,
    }


# --- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [PAYLOAD, envelope(PAYLOAD), envelope(PAYLOAD, traceId="t")])
def test_both_shapes_give_every_field(document: object) -> None:
    event = event_of(document)
    assert (event.tenant, event.customer, event.offer) == ("acme", "C-1234", "off_001")
    assert (event.creative, event.channel, event.outcome) == ("cr_001", "ch_001", "impression")
    assert event.occurred_ms == OCCURRED_MS
    assert (event.interaction_id, event.direction, event.campaign) == ("0f8b", "outbound", None)
    assert (event.recommendation, event.conversion_value) == ("3d6c", 12.5)
    assert event.context is None
    assert len(event.event_id) == 16


@pytest.mark.parametrize(
    "document",
    [
        {"type": "offer.created.v1", "payload": PAYLOAD},
        {"type": "offer.created.v1", "payload": "garbage"},
        {"type": "offer.created.v1", "payload": {"offerId": 5}},
        {"type": "offer.created.v1"},
        {"type": "offer.created.v1", "customerId": "C-1"},
        {"type": "offer.created.v1", "payload": {}, "customerId": "C-1", "offerId": "o"},
    ],
)
def test_an_event_of_another_type_is_skipped_whatever_it_contains(document: object) -> None:
    assert read(document) == Skipped("offer.created.v1")


@pytest.mark.parametrize("payload", [None, "text", 5, []])
def test_our_type_without_a_payload_is_rejected(payload: object) -> None:
    rejection = rejection_of(envelope(payload))
    assert rejection.reason == Reason.BAD_FIELD
    assert rejection.detail.startswith("payload must be an object")


def test_an_envelope_without_a_type_is_rejected() -> None:
    rejection = rejection_of({"payload": PAYLOAD})
    assert rejection == Rejected(Reason.BAD_FIELD, "type must be a string, is missing or null")


def test_a_bare_payload_may_have_unknown_fields_named_type_and_payload() -> None:
    assert event_of({**PAYLOAD, "type": "web"}).context == b'{"type":"web"}'
    assert event_of({**PAYLOAD, "payload": {"a": 1}}).context == b'{"payload":{"a":1}}'


# --- fields ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["customerId", "offerId"])
@pytest.mark.parametrize("value", [None, "", "x" * 129, 5, True, ["a"], "a\0b"])
def test_required_ids_have_1_to_128_characters(name: str, value: object) -> None:
    rejection = rejection_of({**PAYLOAD, name: value})
    assert rejection.reason == Reason.BAD_FIELD
    assert name in rejection.detail


@pytest.mark.parametrize("name", ["customerId", "offerId", "creativeId", "channelId"])
def test_128_characters_are_counted_as_characters_not_bytes(name: str) -> None:
    assert event_of({**PAYLOAD, name: "😀" * 128})
    assert event_of(as_bytes({**PAYLOAD, name: "😀" * 128}, ensure_ascii=False))
    assert rejection_of({**PAYLOAD, name: "😀" * 129}).reason == Reason.BAD_FIELD


@pytest.mark.parametrize("name", ["customerId", "offerId"])
def test_required_ids_may_not_be_missing(name: str) -> None:
    assert rejection_of(envelope(without(name))).detail.startswith(f"{name} is required")


@pytest.mark.parametrize(
    "name", ["creativeId", "channelId", "interactionId", "direction", "campaignId"]
)
def test_optional_fields_may_be_absent_or_null(name: str) -> None:
    field = {"creativeId": "creative", "channelId": "channel", "campaignId": "campaign"}
    attribute = field.get(name) or {"interactionId": "interaction_id"}.get(name, name)
    assert getattr(event_of(without(name)), attribute) is None
    assert getattr(event_of({**PAYLOAD, name: None}), attribute) is None


@pytest.mark.parametrize(
    "name",
    [
        "creativeId",
        "channelId",
        "interactionId",
        "interactionType",
        "outcomeTypeKey",
        "direction",
        "campaignId",
        "recommendationId",
    ],
)
@pytest.mark.parametrize("value", [5, True, {}, "a\0b", "x" * 257])
def test_optional_fields_are_strings_without_nul(name: str, value: object) -> None:
    rejection = rejection_of({**PAYLOAD, name: value})
    assert rejection.reason == Reason.BAD_FIELD
    assert name in rejection.detail


@pytest.mark.parametrize("name", ["creativeId", "channelId", "interactionId", "outcomeTypeKey"])
def test_ids_are_not_empty(name: str) -> None:
    assert rejection_of({**PAYLOAD, name: ""}).reason == Reason.BAD_FIELD


def test_tenant_defaults() -> None:
    assert event_of(without("tenantId")).tenant == "default"
    assert event_of({**PAYLOAD, "tenantId": None}).tenant == "default"
    assert event_of({**PAYLOAD, "tenantId": "A-z_0.9" + "x" * 57}).tenant == "A-z_0.9" + "x" * 57


@pytest.mark.parametrize("tenant", ["", "x" * 65, "a b", "a{b}", "acme\n", "é", "٣", "*", 5, "a\0"])
def test_a_tenant_has_1_to_64_allowed_characters(tenant: object) -> None:
    rejection = rejection_of({**PAYLOAD, "tenantId": tenant})
    assert rejection.reason == Reason.BAD_FIELD
    assert rejection.detail.startswith("tenantId must be 1 to 64")


def test_legacy_field_names() -> None:
    legacy = {**without("offerId", "creativeId"), "actionId": "off_001", "treatmentId": "cr_001"}
    assert event_of(legacy) == event_of(PAYLOAD)
    assert event_of(envelope(legacy)) == event_of(PAYLOAD)
    assert event_of({**legacy, "offerId": "off_001", "creativeId": None}) == event_of(PAYLOAD)
    assert event_of({**legacy, "actionId": None, "offerId": "off_001"}) == event_of(PAYLOAD)


@pytest.mark.parametrize("name", ["actionId", "treatmentId"])
def test_an_event_that_contradicts_itself_is_rejected(name: str) -> None:
    rejection = rejection_of({**PAYLOAD, name: "another"})
    assert rejection.reason == Reason.BAD_FIELD
    assert f"and {name} are two names" in rejection.detail


def test_outcome_falls_back_to_interaction_type() -> None:
    assert event_of({**PAYLOAD, "outcomeTypeKey": "own"}).outcome == "own"
    assert event_of({**PAYLOAD, "outcomeTypeKey": None, "interactionType": "click"}).outcome == (
        "click"
    )
    rejection = rejection_of(without("outcomeTypeKey", "interactionType"))
    assert rejection == Rejected(Reason.BAD_FIELD, "outcomeTypeKey or interactionType is required")


@pytest.mark.parametrize(
    ("text", "value"),
    [("null", None), ("0", 0.0), ("-3", -3.0), ("1e3", 1000.0), ("1e-400", 0.0), ("2.50", 2.5)],
)
def test_conversion_value_is_a_number_or_null(text: str, value: float | None) -> None:
    record = as_bytes(PAYLOAD).replace(b"12.5", text.encode())
    assert event_of(record).conversion_value == value
    with_unknown = record[:-1] + b',"x":1}'
    assert event_of(with_unknown).conversion_value == value


@pytest.mark.parametrize("text", ["1e400", "-1e400", "1" + "0" * 400, "true", '"1"', "[]"])
def test_conversion_value_is_finite(text: str) -> None:
    rejection = rejection_of(as_bytes(PAYLOAD).replace(b"12.5", text.encode()))
    assert rejection.reason == Reason.BAD_FIELD
    assert rejection.detail.startswith("conversionValue must be a number")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "nan", "1" * 5_000])
def test_an_invalid_json_number_is_malformed(text: str) -> None:
    record = as_bytes(PAYLOAD).replace(b"12.5", text.encode())
    assert rejection_of(record).reason == Reason.MALFORMED


def test_unknown_fields_are_kept_with_their_digits() -> None:
    record = as_bytes(PAYLOAD)[:-1] + b', "b": {"x" : [1, 0.10000000000000000000000001, 1e400]} }'
    context = event_of(record).context
    assert context == b'{"b":{"x":[1,0.10000000000000000000000001,1E+400]}}'


# --- time -----------------------------------------------------------------------------------------


def test_the_payload_timestamp_takes_precedence_over_the_envelope_timestamp() -> None:
    assert event_of(envelope(PAYLOAD, timestamp=5)).occurred_ms == OCCURRED_MS
    untimed = envelope(without("timestamp"), timestamp="2026-11-23T10:15:02.113+01:00")
    assert event_of(untimed).occurred_ms == OCCURRED_MS
    assert event_of(envelope({**PAYLOAD, "timestamp": None}, timestamp=NOW)).occurred_ms == NOW_MS
    assert rejection_of(without("timestamp")).reason == Reason.BAD_TIMESTAMP


@pytest.mark.parametrize(
    "timestamp",
    [None, 1_795_425_302_113, "", "yesterday", "2026-11-23", "2026-11-23T09:15:02.113"],
)
def test_a_timestamp_needs_a_date_a_time_and_an_offset(timestamp: object) -> None:
    rejection = rejection_of({**PAYLOAD, "timestamp": timestamp})
    assert rejection.reason == Reason.BAD_TIMESTAMP
    assert rejection.detail.startswith("timestamp ")


@pytest.mark.parametrize(
    ("instant_ms", "reason"),
    [
        (NOW_MS + 300_000, None),
        (NOW_MS + 300_001, Reason.FUTURE_TIMESTAMP),
        (INSTANT_MIN_MS, None),
        (INSTANT_MIN_MS - 1, Reason.BAD_TIMESTAMP),
        (INSTANT_MAX_MS, Reason.FUTURE_TIMESTAMP),
        (INSTANT_MAX_MS + 1, Reason.BAD_TIMESTAMP),
    ],
)
def test_the_range_of_timestamps(instant_ms: int, reason: Reason | None) -> None:
    answer = read({**PAYLOAD, "timestamp": format_ms(instant_ms)})
    if reason is None:
        assert isinstance(answer, Event)
        assert answer.occurred_ms == instant_ms
    else:
        assert isinstance(answer, Rejected)
        assert answer.reason == reason


@pytest.mark.parametrize("timestamp", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z"])
def test_years_without_a_calendar_are_rejected(timestamp: str) -> None:
    assert rejection_of({**PAYLOAD, "timestamp": timestamp}).reason == Reason.BAD_TIMESTAMP


# --- bytes ----------------------------------------------------------------------------------------

SURROGATE_ESCAPE = as_bytes(PAYLOAD).replace(b"C-1234", rb"C-\ud800")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"{",
        b"null",
        b"5",
        b'"text"',
        b"[]",
        b"not json",
        b"\xff\xfe\x00",
        b"\xef\xbb\xbf" + as_bytes(PAYLOAD),
        as_bytes(PAYLOAD) + b"{}",
        as_bytes(PAYLOAD).replace(b"C-1234", b"C-\xff"),
        as_bytes(PAYLOAD).replace(b"C-1234", b"C-\xed\xa0\x80"),
        SURROGATE_ESCAPE,
        as_bytes({**PAYLOAD, "unknown": {"deep": ["\ud800"]}}),
        as_bytes({**PAYLOAD, "\udfff": 1}),
        as_bytes(envelope(PAYLOAD))[:-1] + b',"unknown":"\xff"}',
        as_bytes(PAYLOAD)[:-1] + b',"unknown":' + b"[" * 100_000 + b"}",
        as_bytes(PAYLOAD)[:-1] + b',"unknown":' + b"[" * 70 + b"]" * 70 + b"}",
        b"[" * 100_000,
        b'{"payload":' * 90_000,
    ],
    ids=lambda value: repr(value[:20]),
)
def test_an_invalid_json_object_is_malformed(value: bytes) -> None:
    assert rejection_of(value).reason == Reason.MALFORMED


def test_a_record_without_a_value_is_malformed() -> None:
    assert DECODER.decode(None, NOW_MS) == Rejected(Reason.MALFORMED, "the record has no value")


@pytest.mark.parametrize(
    "name", ["customerId", "offerId", "creativeId", "channelId", "outcomeTypeKey"]
)
def test_the_id_length_limit_may_be_stricter(name: str) -> None:
    strict = Decoder(future_tolerance_s=300, event_bytes_max=1_048_576, id_chars_max=20)
    at_most = PAYLOAD | {name: "x" * 20}
    assert isinstance(strict.decode(as_bytes(at_most), NOW_MS), Event)
    longer = PAYLOAD | {name: "x" * 21}
    assert strict.decode(as_bytes(longer), NOW_MS) == Rejected(
        Reason.BAD_FIELD,
        f"{name} has 21 characters; ID_CHARS_MAX allows 20",
    )
    assert isinstance(DECODER.decode(as_bytes(longer), NOW_MS), Event)


def test_a_large_record_is_not_parsed() -> None:
    at_most = as_bytes(PAYLOAD)
    at_most = at_most[:-1] + b',"x":"' + b"y" * (1_048_576 - len(at_most) - 7) + b'"}'
    assert len(at_most) == 1_048_576
    assert event_of(at_most)
    assert rejection_of(at_most + b" ").reason == Reason.TOO_LARGE
    assert rejection_of(b"\xff" * 2_097_152).reason == Reason.TOO_LARGE


def test_the_last_of_two_equal_keys_counts() -> None:
    record = as_bytes(PAYLOAD)[:-1] + b',"customerId":"C-2"}'
    assert event_of(record).customer == "C-2"


def test_nesting_within_the_limit_is_kept() -> None:
    record = as_bytes(PAYLOAD)[:-1] + b',"x":' + b"[" * 63 + b"]" * 63 + b"}"
    assert event_of(record).context == b'{"x":' + b"[" * 63 + b"]" * 63 + b"}"


def test_details_are_short_and_printable() -> None:
    long = unregistered_type(event_of({**PAYLOAD, "outcomeTypeKey": "\x1b[31m" * 25}))
    assert long.reason == Reason.UNREGISTERED_TYPE
    assert long.detail.isprintable()
    assert "tenant acme" in long.detail
    assert len(reject(Reason.MALFORMED, "x" * 1_000).detail) == 300


# --- properties -----------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_give_a_result(value: bytes) -> None:
    assert isinstance(read(value), Rejected | Skipped)


KEYS = st.sampled_from([*PAYLOAD, "actionId", "treatmentId", "type", "payload", "other"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.characters(categories=["Cs"])
    | st.sampled_from(["interaction.recorded.v1", NOW, "acme", "x" * 129])
)
ANY_JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)


@given(ANY_JSON | st.dictionaries(KEYS, ANY_JSON))
def test_any_json_gives_a_result(document: object) -> None:
    answer = read(document)
    if isinstance(answer, Rejected):
        assert answer.detail
        assert answer.detail.isprintable()
        assert len(answer.detail) <= 300


@given(
    st.dictionaries(KEYS, LEAVES, max_size=3),
    st.lists(st.sampled_from(list(PAYLOAD)), max_size=2),
    st.booleans(),
)
def test_the_fast_reader_agrees_with_the_strict_one(
    changes: dict[str, object], removed: list[str], enveloped: bool
) -> None:
    payload = {**without(*removed), **changes}
    value = as_bytes(envelope(payload) if enveloped else payload, ensure_ascii=False)
    try:
        event = read_fast(value)
    except InvalidEventError as error:
        answer = read(value)
        assert isinstance(answer, Rejected)
        assert answer.reason == error.reason
        with pytest.raises(InvalidEventError, match="timestamp"):
            read_strict(value)
    else:
        if event is not None:
            assert read_strict(value) == event


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
IDS = TEXT.filter(bool)
VALID = st.fixed_dictionaries(
    {
        "customerId": IDS,
        "offerId": IDS,
        "outcomeTypeKey": IDS,
        "timestamp": st.integers(INSTANT_MIN_MS, NOW_MS).map(format_ms),
    },
    optional={
        "tenantId": st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True),
        "interactionId": IDS,
        "creativeId": IDS,
        "channelId": IDS,
        "direction": TEXT,
        "campaignId": TEXT,
        "recommendationId": TEXT,
        "conversionValue": st.floats(allow_nan=False, allow_infinity=False),
    },
)


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "interaction.recorded.v1", "payload": %s}',
        ' {"payload": %s, "type": "interaction.recorded.v1"}',
        '{"timestamp": null, "type": "interaction.recorded.v1", "payload": %s} ',
        "%s",
        " %s ",
    ],
)
def test_the_fast_reader_reads_both_shapes_in_any_order(text: str) -> None:
    """Which shape it tries first depends on the first and last bytes; the result must not."""
    event = read_fast((text % json.dumps(PAYLOAD)).encode())
    assert event is not None
    assert event == read_strict((text % json.dumps(PAYLOAD)).encode())


@given(VALID, st.booleans(), st.booleans())
def test_a_valid_event_keeps_every_field(
    payload: dict[str, Any], enveloped: bool, ascii_only: bool
) -> None:
    document = envelope(payload) if enveloped else payload
    event = event_of(as_bytes(document, ensure_ascii=ascii_only))
    assert event.tenant == payload.get("tenantId", "default")
    assert (event.customer, event.offer) == (payload["customerId"], payload["offerId"])
    assert event.creative == payload.get("creativeId")
    assert event.channel == payload.get("channelId")
    assert event.outcome == payload["outcomeTypeKey"]
    assert format_ms(event.occurred_ms) == payload["timestamp"]
    assert event.interaction_id == payload.get("interactionId")
    assert event.direction == payload.get("direction")
    assert event.campaign == payload.get("campaignId")
    assert event.recommendation == payload.get("recommendationId")
    assert event.conversion_value == payload.get("conversionValue")


FEW = st.sampled_from(["a", "1:a", "-", "a1:a"])
CLOSE = st.fixed_dictionaries(
    {
        "tenant": st.sampled_from(["a", "1"]),
        "interaction_id": st.none() | FEW,
        "customer": FEW,
        "offer": FEW,
        "creative": st.none() | FEW,
        "channel": st.none() | FEW,
        "outcome": FEW,
        "recommendation": st.none() | FEW | st.just(""),
        "occurred_ms": st.integers(0, 2),
    }
)


@given(CLOSE, CLOSE)
def test_identities_are_equal_exactly_if_their_fields_are(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    def fields(of: dict[str, Any]) -> tuple[Any, ...]:
        if of["interaction_id"] is not None:
            return ("i", of["tenant"], of["customer"], of["interaction_id"])
        return ("d", *(of[name] for name in sorted(of)))

    assert (identity(**one) == identity(**other)) == (fields(one) == fields(other))


def test_one_interaction_id_under_two_customers_is_two_interactions() -> None:
    one, other = event_of(PAYLOAD), event_of(PAYLOAD | {"customerId": "another"})
    assert one.event_id != other.event_id


def test_an_identity_never_changes() -> None:
    """The identity is stored permanently: a changed one would count old events again."""
    assert event_of(PAYLOAD).event_id.hex() == "b7bf55ed6b097fa023bd030cb2b73e10"
    assert event_of(without("interactionId")).event_id.hex() == "aae50dfd85520e9d9994938d81397f88"


def test_no_mutated_event_breaks_what_the_decoder_promises() -> None:
    """A short run; `python -m tests.support.decoder_fuzz` makes long ones."""
    results = decoder_fuzz.run(inputs=10_000, seed=5)
    assert sum(results.values()) == 10_000
    assert {"event", "skipped", "malformed", "bad_field", "bad_timestamp"} <= set(results)
