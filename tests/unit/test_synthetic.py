"""Synthetic traffic: repeatable, plausible, with the requested fraction of bad records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from cli.traffic.demo_catalog import DEMO_OUTCOME_TYPE, OFFER_IDS, demo_catalog
from cli.traffic.synthetic import LATE_DAYS_MAX, Record, Traffic
from store.catalog_document import parse_document
from store.records import Event
from store.windows import DAY_MS
from streams.decode.decoder import Decoder
from streams.decode.rejection import Reason, Rejected, Skipped

NOW_MS = 1_795_521_600_000


def take(traffic: Traffic, records: int) -> list[Record]:
    return [traffic.record(NOW_MS + i * 50) for i in range(records)]


def decoded(records: Iterable[Record]) -> list[Event | Skipped | Rejected]:
    decoder = Decoder(future_tolerance_s=300, event_bytes_max=1_048_576)
    return [decoder.decode(record.value, NOW_MS + DAY_MS // 24) for record in records]


def events(records: Iterable[Record]) -> list[Event]:
    found = decoded(records)
    valid = [answer for answer in found if isinstance(answer, Event)]
    assert len(valid) == len(found), next(a for a in found if not isinstance(a, Event))
    return valid


def test_the_same_seed_gives_the_same_records() -> None:
    def some(seed: int, records: int) -> list[Record]:
        mixed = Traffic(seed=seed, customers=100, duplicates=0.1, late=0.1, malformed=0.1)
        return take(mixed, records)

    assert some(7, 2_000) == some(7, 2_000)
    assert some(7, 2_000)[:500] == some(7, 500)
    assert some(7, 500) != some(8, 500)


def test_plain_traffic_is_valid_and_distinct_and_keyed_by_customer() -> None:
    records = take(Traffic(seed=1, customers=1_000, tenants=("a", "b")), 5_000)
    valid = events(records)
    assert len({event.event_id for event in valid}) == 5_000
    assert [event.customer.encode() for event in valid] == [record.key for record in records]
    assert [event.occurred_ms for event in valid] == [NOW_MS + i * 50 for i in range(5_000)]
    assert {event.tenant for event in valid} == {"a", "b"}
    assert {event.offer for event in valid} == set(OFFER_IDS)


def test_people_click_less_than_they_look_and_convert_least() -> None:
    counts = Counter(event.outcome for event in events(take(Traffic(seed=2, customers=500), 9_000)))
    assert counts["impression"] > 4 * counts["click"] > 4 * counts["accept"]
    assert counts["accept"] > counts["convert"] > 0
    assert counts["dismiss"] > 0
    assert DEMO_OUTCOME_TYPE not in counts


def test_a_reaction_has_its_impression_before_it() -> None:
    seen: set[str | None] = set()
    for event in events(take(Traffic(seed=3, customers=500), 3_000)):
        first = event.outcome in ("impression", "not_presented", "expired")
        assert first != (event.recommendation in seen)
        seen.add(event.recommendation)
        assert (event.conversion_value is not None) == (event.outcome == "convert")


def test_few_customers_do_much() -> None:
    customers = Counter(e.customer for e in events(take(Traffic(seed=4, customers=1_000), 9_000)))
    assert len(customers) > 300
    most = customers.most_common(10)
    assert sum(n for _, n in most) > 0.3 * 9_000
    assert "C-000001" in dict(most)


def test_one_customer_is_possible() -> None:
    assert {e.customer for e in events(take(Traffic(seed=5, customers=1), 100))} == {"C-000001"}


def test_duplicates_repeat_an_earlier_record_byte_for_byte() -> None:
    records = take(Traffic(seed=6, customers=100, duplicates=0.2), 5_000)
    repeated = 5_000 - len(set(records))
    assert 0.15 * 5_000 < repeated < 0.25 * 5_000
    assert len({event.event_id for event in events(records)}) == 5_000 - repeated


def test_late_events_are_at_most_40_days_old() -> None:
    valid = events(take(Traffic(seed=7, customers=100, late=0.5), 4_000))
    ages_ms = [NOW_MS + i * 50 - event.occurred_ms for i, event in enumerate(valid)]
    late = [age for age in ages_ms if age != 0]
    assert 0.4 * 4_000 < len(late) < 0.6 * 4_000
    assert 0 < min(late) <= max(late) <= LATE_DAYS_MAX * DAY_MS
    assert max(late) > 35 * DAY_MS


def test_malformed_records_are_broken_in_many_ways() -> None:
    answers = decoded(take(Traffic(seed=8, customers=100, malformed=1.0, late=1.0), 800))
    reasons = Counter(answer.reason for answer in answers if isinstance(answer, Rejected))
    assert set(reasons) == {Reason.MALFORMED, Reason.BAD_FIELD, Reason.FUTURE_TIMESTAMP}
    # The decoder does not know which outcome types are registered.
    others = [answer for answer in answers if not isinstance(answer, Rejected)]
    assert {isinstance(e, Event) and e.outcome for e in others} == {"never_registered"}


def test_the_own_type_comes_only_when_asked_for() -> None:
    valid = events(take(Traffic(seed=9, customers=100, own_type=DEMO_OUTCOME_TYPE), 9_000))
    assert any(event.outcome == DEMO_OUTCOME_TYPE for event in valid)


def test_the_demo_catalog_is_a_catalog_and_has_all_that_traffic_names() -> None:
    document = parse_document(msgspec.json.encode(demo_catalog("acme")))
    assert document.tenant == "acme"
    treatments = {item.id: item for item in document.treatments or ()}
    offers = {item.id for item in document.offers or ()}
    channels = {item.id for item in document.channels or ()}
    types = {item.key for item in document.outcome_types or ()}
    assert (len(offers), len(treatments), len(channels)) == (20, 40, 4)
    assert types == {DEMO_OUTCOME_TYPE}
    for event in events(take(Traffic(seed=10, customers=50), 3_000)):
        assert event.creative is not None
        treatment = treatments[event.creative]
        assert (treatment.offer_id, treatment.channel_id) == (event.offer, event.channel)
    assert {item.offer_id for item in treatments.values()} == offers
    assert {item.channel_id for item in treatments.values()} == channels
