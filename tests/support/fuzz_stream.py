"""Records of a fuzz run, made from its seed: valid events, and what mutations make of them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from store.windows import DAY_MS
from tests.support.events import encode, make_event

#: No tenant of another stream, so that a chaos run can compare its own tenants with a plain count.
TENANTS: Final = ("fuzzed_a", "fuzzed_b", "fuzzed_c")
COMPRESSIONS: Final = (None, "gzip", "snappy", "lz4", "zstd")
#: Record timestamps that producers have sent: in ms, s, µs, ns, none, and nonsense.
TIMESTAMPS: Final = (None, 0, 1, 1_795_478_400, 1_795_478_400_000_000, 1_795_478_400_000_000_000)
#: Share of the records that are mutated.
MUTATED: Final = 0.5
#: One record in so many is larger than the limit of an event; a few MB compress to almost nothing.
HUGE_EVERY: Final = 20_000
_ODD_TEXTS: Final = ("", " ", "\0", "\ud800", "é" * 128, "x" * 129, "\u202e", "null", "😀" * 64)
_ODD_NUMBERS: Final = (-1, 0, 2**63, -(2**63) - 1, 1e308, 10**400, True, None)
_ODD_TIMES: Final = (
    "2026-11-23", "9999-12-31T23:59:59Z", "1969-12-31T23:59:59Z", "2026-02-30T00:00:00Z",
    "2026-11-23T09:15:02+99:00", "0001-01-01T00:00:00+23:59", "now", "1795425302113",
)  # fmt: skip


class FuzzRecord(NamedTuple):
    """Record to send, with the choices of its producer."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp: int | None
    """As the producer gives it; None = now."""


def records(seed: int, n: int, now_ms: int) -> Iterator[FuzzRecord]:
    """Yield `n` records."""
    chosen = random.Random(seed)
    for number in range(n):
        timestamp = _timestamp(chosen, now_ms)
        is_odd = timestamp in TIMESTAMPS
        value: bytes | None = _event(chosen, seed, number, now_ms, is_odd)
        if number % HUGE_EVERY == HUGE_EVERY - 1:
            value = _huge(chosen)
        elif not is_odd and chosen.random() < MUTATED:  # a mutation may give two the same identity
            value = chosen.choice(MUTATIONS)(value or b"", chosen)
        yield FuzzRecord(_key(chosen), value, _headers(chosen), timestamp)


def _event(
    chosen: random.Random, seed: int, number: int, now_ms: int, has_odd_timestamp: bool
) -> bytes:
    # Some identities come again, some of them with another content. Not those with an odd
    # timestamp: the counters would count a copy that arrived years before the other one.
    same = number if chosen.random() < 0.98 else chosen.randrange(number + 1)
    offer = chosen.randrange(20)
    return encode(
        make_event(
            tenant=chosen.choice(TENANTS),
            customer=f"C-{min(int(chosen.paretovariate(0.6)), 5_000)}",
            offer=f"off_{offer}",
            creative=chosen.choice((None, f"cr_{offer}")),
            channel=chosen.choice((None, "ch_1", "ch_2")),
            outcome=chosen.choice(("impression", "impression", "click", "convert", "no_such_type")),
            occurred_ms=now_ms - chosen.randrange(40 * DAY_MS),
            identity=f"{seed}-odd-{number}" if has_odd_timestamp else f"{seed}-{same}",
        )
    )


def _key(chosen: random.Random) -> bytes | None:
    return chosen.choice((None, b"", b"C-1", b"\xff\xfe", chosen.randbytes(8), b"k" * 1_000))


def _headers(chosen: random.Random) -> list[tuple[str, bytes | None]]:
    if chosen.random() < 0.8:
        return []
    names = ("", "trace", "é", "dlq.reason", "dlq.source.offset", "x" * 300)
    values = (None, b"", b"\xff", b"1", chosen.randbytes(20))
    return [(chosen.choice(names), chosen.choice(values)) for _ in range(chosen.randrange(4))]


def _timestamp(chosen: random.Random, now_ms: int) -> int | None:
    if chosen.random() < 0.97:
        return now_ms - chosen.randrange(60_000)
    return chosen.choice(TIMESTAMPS)


def _huge(chosen: random.Random) -> bytes:
    return chosen.choice((b"x", b"[", b'{"a":')) * chosen.choice((1_048_577, 3_000_000))


# ---- mutations of a value


def _flip_bits(value: bytes, chosen: random.Random) -> bytes:
    changed = bytearray(value)
    for _ in range(chosen.randrange(1, 4)):
        changed[chosen.randrange(len(changed))] ^= 1 << chosen.randrange(8)
    return bytes(changed)


def _cut(value: bytes, chosen: random.Random) -> bytes:
    return value[: chosen.randrange(len(value))]


def _insert(value: bytes, chosen: random.Random) -> bytes:
    at = chosen.randrange(len(value))
    odd = (b"\0", b"\\u0000", b"\\ud800", b"\xff", b'"', b"{", b"\xef\xbb\xbf", chosen.randbytes(5))
    return value[:at] + chosen.choice(odd) + value[at:]


def _repeat_part(value: bytes, chosen: random.Random) -> bytes:
    first, end = sorted((chosen.randrange(len(value)), chosen.randrange(len(value))))
    return value[:end] + value[first:end] + value[end:]


def _none(value: bytes, chosen: random.Random) -> bytes | None:
    return chosen.choice((None, b"", b"null", b"[]", b"0", b'"text"', b"{}"))


def _nested(value: bytes, chosen: random.Random) -> bytes:
    depth = chosen.choice((10, 1_000, 100_000))
    return b"[" * depth + chosen.choice((b"", b"]" * depth))


def _change_field(value: bytes, chosen: random.Random) -> bytes:
    document: dict[str, Any] = json.loads(value)
    parent = document if chosen.random() < 0.2 else document["payload"]
    name = chosen.choice(sorted(parent))
    change = chosen.randrange(5)
    if change == 0:
        del parent[name]
    elif change == 1:
        parent[name] = chosen.choice(_ODD_TEXTS)
    elif change == 2:
        parent[name] = chosen.choice(_ODD_NUMBERS)
    elif change == 3:
        parent["timestamp"] = chosen.choice(_ODD_TIMES)
    else:
        parent[chosen.choice(("extra", "actionId", "tenantId", "type"))] = chosen.choice(
            ("fuzzed_a", [1, {"a": None}], {}, "a tenant", "other.event.v1")
        )
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _bare_payload(value: bytes, chosen: random.Random) -> bytes:
    return json.dumps(json.loads(value)["payload"], indent=chosen.choice((None, 2))).encode()


MUTATIONS: Final[Sequence[Callable[[bytes, random.Random], bytes | None]]] = (
    _flip_bits, _cut, _insert, _repeat_part, _none, _nested, _change_field, _change_field,
    _bare_payload,
)  # fmt: skip
