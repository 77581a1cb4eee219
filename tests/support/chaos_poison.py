"""Poison records of a chaos run: none may stop a worker, and each must end in one place."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, NamedTuple

from tests.support.accounting import Outcome
from tests.support.events import encode, make_event
from tests.support.fuzz_stream import COMPRESSIONS, FuzzRecord, records
from tests.support.raw_producer import RawName

#: Size of a value of zeros, in bytes: far over EVENT_BYTES_MAX, and gzip makes 20 kB of it.
HUGE_BYTES: Final = 20 * 1_048_576
#: Tenants of poison records that are counted. Nobody registered them.
TENANT: Final = "poison"
#: Record timestamps: µs, ns, negative, and the largest that fits.
_TIMESTAMPS: Final = (
    1_795_478_400_000_000, 1_795_478_400_000_000_000, -2, -1_795_478_400_000, 2**63 - 1,
)  # fmt: skip


class Poison(NamedTuple):
    """One poison record to send."""

    record: FuzzRecord
    compression: str | None
    outcome: Outcome | None
    """Where it must end; None if its mutation decides that."""


def poison_records(seed: int, n: int, now_ms: int) -> list[Poison]:
    """Return `n` poison records: each kind at least once if `n` allows it, the rest mutated."""
    chosen = random.Random(seed)
    made = [kind(chosen, f"{seed}-poison-{i}", now_ms) for i, kind in enumerate(KINDS)]
    # Some of every kind again: two thirds of the records are mutated.
    number = len(made)
    while len(made) < n // 3:
        number += 1
        # Once is enough for the huge ones, which take seconds.
        made.append(chosen.choice(KINDS[1:])(chosen, f"{seed}-poison-{number}", now_ms))
    for record in records(seed, max(n - len(made), 0), now_ms):
        made.append(Poison(record, chosen.choice(COMPRESSIONS), None))
    chosen.shuffle(made)
    return made


def _valid(identity: str, now_ms: int, *, tenant: str = TENANT, outcome: str = "click") -> bytes:
    event = make_event(tenant=tenant, outcome=outcome, occurred_ms=now_ms, identity=identity)
    return encode(event)


def _dead(value: bytes | None, *, key: bytes | None = b"C-1", compression: str | None) -> Poison:
    return Poison(FuzzRecord(key, value, [], None), compression, "dead letter")


# ---- kinds


def _huge(chosen: random.Random, identity: str, now_ms: int) -> Poison:
    return _dead(bytes(HUGE_BYTES), compression="gzip")


def _no_key_and_no_value(chosen: random.Random, identity: str, now_ms: int) -> Poison:
    return _dead(None, key=None, compression=chosen.choice(COMPRESSIONS))


def _undecodable(chosen: random.Random, identity: str, now_ms: int) -> Poison:
    value = b"\xff\xfe" + chosen.randbytes(chosen.randrange(200))
    return _dead(value, key=chosen.randbytes(9), compression=chosen.choice(COMPRESSIONS))


def _truncated(chosen: random.Random, identity: str, now_ms: int) -> Poison:
    value = _valid(identity, now_ms)
    return _dead(value[: chosen.randrange(len(value))], compression=chosen.choice(COMPRESSIONS))


def _unknown_type(chosen: random.Random, identity: str, now_ms: int) -> Poison:
    value = _valid(identity, now_ms, outcome="no_such_type")
    return _dead(value, compression=chosen.choice(COMPRESSIONS))


def _illegal_tenant(chosen: random.Random, identity: str, now_ms: int) -> Poison:
    tenant = chosen.choice(("", "no tenant", "x" * 500, "*"))
    return _dead(_valid(identity, now_ms, tenant=tenant), compression=chosen.choice(COMPRESSIONS))


def _unknown_tenant(chosen: random.Random, identity: str, now_ms: int) -> Poison:
    value = _valid(identity, now_ms, tenant=f"poison_{chosen.randrange(5)}")
    record = FuzzRecord(None, value, [], None)
    return Poison(record, chosen.choice(COMPRESSIONS), "stored")


def _other_event(chosen: random.Random, identity: str, now_ms: int) -> Poison:
    value = b'{"type": "other.event.v1", "payload": {}}'
    return Poison(FuzzRecord(None, value, [], None), chosen.choice(COMPRESSIONS), "skipped")


def _odd_header_names(chosen: random.Random, identity: str, now_ms: int) -> Poison:
    headers = [(RawName("x"), b"1"), ("dlq.reason", b"\xff"), ("", None)]
    is_good = chosen.random() < 0.5
    value = _valid(identity, now_ms) if is_good else b"not json " + identity.encode()
    record = FuzzRecord(b"C-1", value, headers, None)
    outcome: Outcome = "stored" if is_good else "dead letter"
    return Poison(record, chosen.choice(COMPRESSIONS), outcome)


def _odd_timestamp(chosen: random.Random, identity: str, now_ms: int) -> Poison:
    record = FuzzRecord(b"C-1", _valid(identity, now_ms), [], chosen.choice(_TIMESTAMPS))
    return Poison(record, chosen.choice(COMPRESSIONS), "stored")


#: The huge ones come first.
KINDS: Final[tuple[Callable[[random.Random, str, int], Poison], ...]] = (
    _huge, _no_key_and_no_value, _undecodable, _truncated, _unknown_type, _illegal_tenant,
    _unknown_tenant, _other_event, _odd_header_names, _odd_timestamp,
)  # fmt: skip
