"""Sources of `load`, and the shift of event times."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.console import CliError
from cli.load import due_s
from cli.traffic import source as feed
from cli.traffic.recorded import instant_of, key_of, shifted
from cli.traffic.synthetic import Traffic
from store.windows import DAY_MS
from streams.decode.timestamps import parse_ms

NOW_MS = 1_795_521_600_000
OLD = "2019-11-24T00:00:17.004Z"
OLDER = "2019-11-24T01:00:16+01:00"


def event(timestamp: str, *, customer: str = "C-1", envelope_time: str | None = None) -> bytes:
    document: dict[str, Any] = {"customerId": customer, "timestamp": timestamp, "x": 1.10}
    if envelope_time is not None:
        document = {"type": "t", "timestamp": envelope_time, "payload": document}
    return json.dumps(document).encode()


def recorded(content: bytes, **options: Any) -> list[feed.Record]:
    options = {"events": None, "shift_to_ms": None} | options
    return list(feed.recorded_records(io.BytesIO(content), **options))


def test_lines_are_sent_as_they_are_with_the_customer_as_key() -> None:
    content = event(OLD) + b"\n\n  \r\nnot json\r\n" + event(OLDER, envelope_time=OLD)
    assert recorded(content) == [
        (b"C-1", event(OLD)),
        (None, b"not json"),
        (b"C-1", event(OLDER, envelope_time=OLD)),
    ]


def test_all_times_move_by_one_distance_so_that_the_latest_is_now() -> None:
    content = b"\n".join([event(OLD), b"not json", event(OLDER, envelope_time=OLDER)])
    first, broken, second = (value for _, value in recorded(content, shift_to_ms=NOW_MS))
    assert json.loads(first)["timestamp"] == "2026-11-24T12:00:00.000Z"
    assert broken == b"not json"
    enveloped = json.loads(second)
    assert enveloped["timestamp"] == "2026-11-24T11:59:58.996Z"
    assert enveloped["payload"]["timestamp"] == "2026-11-24T11:59:58.996Z"
    assert b'"x":1.1' in second


def test_the_latest_is_of_the_lines_that_are_sent() -> None:
    content = event(OLDER) + b"\n" + event(OLD)
    ((_, value),) = recorded(content, shift_to_ms=NOW_MS, events=1)
    assert instant_of(value) == NOW_MS


def test_nothing_to_move_is_an_error() -> None:
    with pytest.raises(CliError, match="no event has a time"):
        recorded(b"{}\n[]\n", shift_to_ms=NOW_MS)


def test_a_payloads_time_goes_before_its_envelopes() -> None:
    assert instant_of(event(OLD, envelope_time=OLDER)) == parse_ms(OLD)
    untimed = json.dumps({"timestamp": OLDER, "payload": {}}).encode()
    assert instant_of(untimed) == parse_ms(OLDER)
    assert instant_of(b'{"timestamp": "yesterday"}') is None
    assert instant_of(b'{"timestamp": "0001-01-01T00:00:00Z"}') is None


@given(
    st.binary(max_size=80)
    | st.recursive(
        st.none() | st.text(max_size=3) | st.just(OLD) | st.integers(),
        lambda inner: st.dictionaries(
            st.sampled_from(["payload", "timestamp", "customerId"]), inner
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_a_line_holds_it_is_sent(line: bytes) -> None:
    assert isinstance(key_of(line), bytes | None)
    before, after = instant_of(line), instant_of(shifted(line, 5))
    assert after == (None if before is None else before + 5)


def test_files_may_be_packed(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.jsonl", tmp_path / "b"
    plain.write_bytes(event(OLD))
    packed.write_bytes(gzip.compress(event(OLD)))
    for file in (plain, packed):
        with feed.open_source(file, seekable=True) as source:
            assert list(feed.read_lines(source)) == [event(OLD)]
            source.seek(0)
            assert list(feed.read_lines(source)) == [event(OLD)]


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "cut.gz"
    file.write_bytes(gzip.compress(event(OLD) * 100)[:-20])
    with (
        pytest.raises(CliError, match="reading events"),
        feed.open_source(file, seekable=False) as it,
    ):
        list(feed.read_lines(it))


def test_a_line_has_a_longest() -> None:
    at_most = b"x" * feed.LINE_BYTES_MAX
    assert list(feed.read_lines(io.BytesIO(at_most))) == [at_most]
    with pytest.raises(CliError, match="line 2 is longer than"):
        list(feed.read_lines(io.BytesIO(b"a\n" + b"x" * (feed.LINE_BYTES_MAX + 1))))


def test_made_up_events_happen_when_they_are_asked_for() -> None:
    clock = iter(range(NOW_MS, NOW_MS + 100))
    traffic = Traffic(seed=1, customers=5)
    records = feed.synthetic_records(traffic, events=3, days=0, now_ms=lambda: next(clock))
    assert [instant_of(value) for _, value in records] == [NOW_MS + 1, NOW_MS + 2, NOW_MS + 3]


def test_made_up_events_can_be_spread_over_days() -> None:
    traffic = Traffic(seed=1, customers=5)
    records = feed.synthetic_records(traffic, events=4, days=2, now_ms=lambda: NOW_MS)
    half_days = [(NOW_MS - instant_of(value)) / (DAY_MS / 2) for _, value in records]  # type: ignore[operator]
    assert half_days == [3, 2, 1, 0]


def test_events_of_a_rate_leave_together() -> None:
    """Twenty at a time, but at least one burst per second."""
    assert [due_s(n, 20) for n in (0, 19, 20, 39, 40)] == [0, 0, 1, 1, 2]
    assert [due_s(n, 2_000) for n in (19, 20, 2_000)] == [0, 0.01, 1]
    assert [due_s(n, 5) for n in (4, 5, 9, 10)] == [0, 1, 1, 2]
    assert [due_s(n, 0.5) for n in (0, 1, 2)] == [0, 2, 4]
