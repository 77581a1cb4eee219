"""Measure the bytes of Redis per customer, group and identity, and the size of each part.

    python -m bench.memory [--customers 100000 1000000] [--offers 3 10 20] [--json]

Every customer has one event on each of the last 30 days, over `--offers` distinct offers. The
counters hold all of their data: records with tiles and windows, ranks of all periods, due sets, and
the identities of the days that the default horizon keeps.

A chunk of customers is committed with the sums of all 30 days at once. A check on a few customers
runs first: 30 days of commits with 29 midnights between them must give the same records, ranks and
bytes. The size of a part is the `used_memory` that deleting it frees; the fields of a record are
measured by their bytes in its listpack.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, cast

import redis

from bench.servers import TENANT, counters_only
from store.counters import Committed, Deltas, Generation, Rolled
from store.records import GROUPINGS
from store.redis.client import make_client
from store.redis.counters import SLOT_MS, RedisCounters
from store.redis.keys import GROUPING_CODES, Keys
from store.settings import Settings
from store.windows import DAY_MS

DESCRIPTION, _, DETAILS = (__doc__ or "").partition("\n")
TOPIC_ID = "00000000-0000-0000-0000-000000000001"
DAYS = 30
TODAY = 20_780
REMEMBERED_DAYS = 3
"""Slots of identities that the default horizon keeps: today and the two days before."""
TYPES = ("impression", "click", "dismiss", "accept", "convert")
WEIGHTS = (70, 15, 8, 4, 3)
CATALOG = 200
"""Offers of the catalog, with two treatments each. There are 4 channels."""
CHUNK = 250
SAMPLE = 200
PERIODS = ("a", "m", "w", f"d{TODAY}")


class Profile(NamedTuple):
    """Thirty days of a customer: one offer and one outcome type per day, oldest first."""

    offers: Sequence[int]
    types: Sequence[int]

    def deltas(self, first: int, last: int) -> tuple[list[int], list[Any]]:
        """Return the customer's deltas of the days `first` to `last` (0 to 29), and its offers."""
        triples: list[int] = []
        offers: list[Any] = []
        for i in range(first, last + 1):
            day = TODAY - DAYS + 1 + i
            triples += (day, self.types[i], 1)
            offers += (f"off_{self.offers[i]:03}", day)
        return triples, offers


def profiles(distinct: int, n: int = 1_000) -> list[Profile]:
    """Return `n` random profiles with `distinct` offers each; customers share these profiles."""
    random = Random(distinct)
    made = []
    for _ in range(n):
        seen = random.sample(range(CATALOG), distinct)
        days = seen + random.choices(seen, k=DAYS - distinct)
        random.shuffle(days)
        made.append(Profile(days, random.choices(range(len(TYPES)), WEIGHTS, k=DAYS)))
    return made


def group_deltas(
    customers_of: Counter[int], first: int, last: int, kinds: Sequence[Profile]
) -> Deltas:
    """Return the same interactions by action, treatment and channel.

    `customers_of`: index of a profile -> number of customers that have it.
    """
    counts: Counter[tuple[str, int, int]] = Counter()
    for kind, customers in customers_of.items():
        profile = kinds[kind]
        for i in range(first, last + 1):
            offer, type_ = profile.offers[i], profile.types[i]
            day = TODAY - DAYS + 1 + i
            for id_ in (f"off_{offer:03}", f"cr_{offer:03}_{i % 2}", f"ch_{offer % 4}"):
                counts[id_, day, type_] += customers
    found: dict[str, dict[str, list[int]]] = {"off_": {}, "cr_": {}, "ch_": {}}
    for (id_, day, type_), n in sorted(counts.items()):
        found[id_[: id_.index("_") + 1]].setdefault(id_, []).extend((day, type_, n))
    actions, treatments, channels = (
        [part for item in of_kind.items() for part in item] for of_kind in found.values()
    )
    return Deltas(TYPES, actions=actions, treatments=treatments, channels=channels)


class Filler:
    """Writer that commits the interactions of one tenant's customers."""

    def __init__(self, store: RedisCounters, generation: Generation, ids: str) -> None:
        self._store, self.generation, self._ids = store, generation, ids
        self._expected_offset: int | None = None
        self._random = Random(1)

    def customer(self, n: int) -> str:
        return self._ids.format(n)

    async def commit(self, deltas: Deltas) -> None:
        next_offset = (self._expected_offset or 0) + 1
        answer = await self._store.commit(
            self.generation,
            topic_id=TOPIC_ID,
            partition=0,
            expected_offset=self._expected_offset,
            next_offset=next_offset,
            deltas=deltas,
        )
        assert isinstance(answer, Committed), answer
        self._expected_offset = next_offset

    async def days(
        self, customers: int, kinds: Sequence[Profile], first: int, last: int, identities: bool
    ) -> None:
        """Commit all customers' days `first` to `last`; actions first: customers refer to them."""
        customers_of: Counter[int] = Counter(n % len(kinds) for n in range(customers))
        await self.commit(group_deltas(customers_of, first, last, kinds))
        deltas_of = [kind.deltas(first, last) for kind in kinds]
        for begin in range(0, customers, CHUNK):
            rows: list[Any] = []
            size = min(CHUNK, customers - begin)
            for n in range(begin, begin + size):
                rows += (self.customer(n), *deltas_of[n % len(deltas_of)])
            remembered: list[Any] = []
            for days_ago in range(REMEMBERED_DAYS if identities else 0):
                remembered += (TODAY - days_ago, self._random.randbytes(8 * size))
            await self.commit(Deltas(TYPES, remembered, customers=rows))

    async def roll(self, day: int) -> None:
        """Roll the tenant's windows to `day`."""
        finished = False
        while not finished:
            answer = await self._store.roll(
                self.generation, day, now_ms=day * DAY_MS, records_max=100
            )
            assert isinstance(answer, Rolled)
            finished = answer.finished
        self.generation = self.generation._replace(day=day)


async def filler(store: RedisCounters, tenant: str, day: int, ids: str) -> Filler:
    generation = await store.create(tenant, day=day, timezone="UTC", complete=True, watermarks=())
    return Filler(store, generation, ids)


# ---- check: one commit of 30 days gives the state of 30 daily commits


async def check(store: RedisCounters, info: Any, keys: Keys, ids: str) -> float:
    """Return the bytes of the state made at once divided by those of the state made day by day.

    Raises SystemExit if the two states differ.
    """
    customers, kinds = 300, profiles(20)
    at_once = await filler(store, "at-once", TODAY, ids)
    await at_once.days(customers, kinds, 0, DAYS - 1, identities=False)
    by_day = await filler(store, "by-day", TODAY - DAYS + 1, ids)
    for i in range(DAYS):
        await by_day.roll(TODAY - DAYS + 1 + i)
        await by_day.days(customers, kinds, i, i, identities=False)
    (one, one_bytes), (other, other_bytes) = (
        _state(info, keys, tenant) for tenant in ("at-once", "by-day")
    )
    differ = [name for name in {**one, **other} if not _same(name, one, other)]
    if differ:
        raise SystemExit(f"30 days at once and day by day give different keys: {differ[:5]}")
    return one_bytes / other_bytes


def _same(name: bytes, at_once: dict[bytes, Any], by_day: dict[bytes, Any]) -> bool:
    if name.startswith(b"due:"):
        # Day by day, a record may remain in the set of a day that is no longer used.
        return set(at_once.get(name, ())) <= set(by_day.get(name, ()))
    return at_once.get(name) == by_day.get(name)


def _state(info: Any, keys: Keys, tenant: str) -> tuple[dict[bytes, Any], int]:
    """Return the comparable content of a tenant's keys, and their bytes."""
    prefix = keys.meta(tenant, 1).removesuffix("meta").encode()
    offer_of = {b"-" + number: offer for offer, number in info.hgetall(prefix + b"offers").items()}
    held: dict[bytes, Any] = {}
    size = 0
    for key in info.scan_iter(match=prefix + b"*", count=1_000):
        size += info.memory_usage(key, samples=0)
        kind = info.type(key)
        name = key.removeprefix(prefix)
        if name in (b"meta", b"offers"):
            continue  # watermarks count commits; offers are numbered in the order of arrival
        if kind == b"hash":
            held[name] = _comparable(info.hgetall(key), offer_of)
        elif kind == b"zset":
            held[name] = info.zrange(key, 0, -1, withscores=True)
        else:
            held[name] = sorted(info.smembers(key))
    return held, size


def _comparable(record: dict[bytes, bytes], offer_of: dict[bytes, bytes]) -> dict[bytes, Any]:
    """Return the record with offers by name and the bytes of each field sorted.

    Outcome types and offers are numbered in the order of their first use.
    """
    return {offer_of.get(name, name): sorted(value) for name, value in record.items()}


# ---- size of each part


def used(info: Any) -> int:
    """Return `used_memory` after Redis has freed all objects in the background."""
    while info.info("memory")["lazyfree_pending_objects"]:
        time.sleep(0.01)
    return int(info.info("memory")["used_memory"])


def delete(info: Any, names: Iterator[Any] | Sequence[Any]) -> int:
    """Delete keys; return the bytes that this frees."""
    before = used(info)
    batch: list[Any] = []
    for name in names:
        batch.append(name)
        if len(batch) == 1_000:
            info.delete(*batch)
            batch = []
    if batch:
        info.delete(*batch)
    return before - used(info)


def field_bytes(info: Any, record: bytes) -> dict[str, int]:
    """Return the bytes of a record's fields, by part. DUMP gives the listpack in a frame."""
    copy = b"copy"
    sizes = {}
    info.copy(record, copy, replace=True)
    last = len(info.dump(copy))
    parts: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
        ("offers seen", lambda name: name.startswith(b"-")),
        ("tiles", lambda name: name.isdigit()),
    )
    for part, is_of_part in parts:
        fields = [name for name in info.hkeys(copy) if is_of_part(name)]
        if fields:
            info.hdel(copy, *fields)
        now = len(info.dump(copy))
        sizes[part], last = last - now, now
    sizes["windows (s)"] = last - _DUMP_FRAME
    info.delete(copy)
    return sizes


#: Bytes of type, length, version and checksum around the listpack; the length has 1 to 5 bytes.
_DUMP_FRAME = 13


async def measure(url: str, customers: int, offers: int, ids: str) -> dict[str, Any]:
    """Fill an empty Redis and return all sizes by name. `ids`: format of a customer's id."""
    settings = Settings(redis_url=url)
    info = redis.Redis.from_url(url, socket_timeout=600)
    info.flushall()
    info.config_set("rdbcompression", "no")
    client: Any = make_client(settings, timeout_s=60, retries=0)
    store, keys = RedisCounters(client, settings.redis_prefix), Keys(settings.redis_prefix)
    same = await check(store, info, keys, ids)
    info.flushall()
    assert SLOT_MS == DAY_MS
    fill = await filler(store, TENANT, TODAY, ids)
    began, began_s = used(info), time.monotonic()
    await fill.days(customers, profiles(offers), 0, DAYS - 1, identities=True)
    took_s = time.monotonic() - began_s
    whole = used(info) - began
    prefix = keys.meta(TENANT, 1).removesuffix("meta")
    rank = {(g, p): keys.rank(TENANT, 1, g, p) for g in GROUPINGS for p in PERIODS}
    actions = info.zcard(rank["action", "a"])
    largest = cast(list[bytes], info.zrange(rank["action", "a"], 0, 0))
    records = [f"{prefix}u:{fill.customer(n)}".encode() for n in range(customers)]
    sample = Random(2).sample(records, min(SAMPLE, customers))
    found: dict[str, Any] = {
        "customers": customers,
        "offers": offers,
        "filled_s": round(took_s, 1),
        "at_once_to_day_by_day": round(same, 3),
        "used_memory_bytes": whole,
        "record_memory_usage_bytes": sum(info.memory_usage(k, samples=0) or 0 for k in sample)
        / len(sample),
        "record_encodings": dict(Counter(info.object("encoding", k).decode() for k in sample)),
        "action_encoding": info.object("encoding", f"{prefix}a:{largest[0].decode()}").decode(),
    }
    identities = delete(info, [f"{prefix}own:{TODAY - n}" for n in range(REMEMBERED_DAYS)])
    ranks = {p: delete(info, [rank["customer", p]]) / customers for p in PERIODS}
    # A due set has members of all groupings; 999 of 1,000 are customers.
    due = delete(info, list(info.scan_iter(match=f"{prefix}due:*", count=1_000))) / customers
    fields = [field_bytes(info, key) for key in sample]
    each = delete(info, iter(records)) / customers
    parts = {part: sum(f[part] for f in fields) / len(fields) for part in fields[0]}
    parts["key, and rounding by the allocator"] = each - sum(parts.values())
    parts |= {f"rank {period[0]}": size for period, size in ranks.items()} | {"due set": due}
    found["customer_parts_bytes"] = {part: round(size, 1) for part, size in parts.items()}
    found["customer_bytes"] = round(sum(parts.values()), 1)
    found["identity_bytes"] = round(identities / customers / REMEMBERED_DAYS, 1)
    found["customer_with_identities_bytes"] = round(sum(parts.values()) + identities / customers, 1)
    group_bytes = {}
    for grouping in ("action", "treatment", "channel"):
        code = GROUPING_CODES[grouping]
        ids_ = cast(list[bytes], info.zrange(rank[grouping, "a"], 0, -1))
        keys_of_group = [f"{prefix}{code}:{id_.decode()}" for id_ in ids_]
        keys_of_group += [rank[grouping, p] for p in PERIODS]
        group_bytes[grouping] = round(delete(info, keys_of_group) / len(ids_), 1)
    found["group_bytes"] = group_bytes
    found["actions"] = actions
    found["left_bytes"] = used(info) - began
    await client.aclose()
    info.close()
    return found


def show(found: dict[str, Any]) -> None:
    """Print the sizes that `measure` returned."""
    print(f"{found['customers']:,} customers, {found['offers']} distinct offers each", end="")
    print(f" (filled in {found['filled_s']} s)")
    print(f"  {found['customer_bytes']:7.0f} bytes per customer, of which")
    for part, size in found["customer_parts_bytes"].items():
        print(f"  {size:12.1f} {part}")
    print(f"  {found['identity_bytes']:7.1f} bytes per identity")
    print(f"  {found['customer_with_identities_bytes']:7.0f} bytes per customer with 3 identities")
    for grouping, size in found["group_bytes"].items():
        print(f"  {size:7.0f} bytes per {grouping}")
    print(
        f"  used_memory grew by {found['used_memory_bytes'] / 2**20:.0f} MiB; MEMORY USAGE of a "
        f"record {found['record_memory_usage_bytes']:.0f}; encodings {found['record_encodings']}, "
        f"of the largest action {found['action_encoding']}; at once / day by day "
        f"{found['at_once_to_day_by_day']}; left {found['left_bytes']} bytes",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.memory", description=DESCRIPTION, epilog=DETAILS
    )
    parser.add_argument("--customers", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument(
        "--offers",
        type=int,
        nargs="+",
        default=[3, 10, 20],
        help="distinct offers of a customer, at most 30",
    )
    parser.add_argument("--ids", default="C-{:07}", help="a customer's id; {} is a number")
    parser.add_argument(
        "--redis-server", type=Path, help="program to start instead of the wheel's Valkey"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for customers in options.customers:
        for offers in options.offers:
            with counters_only(options.redis_server) as url:
                found = asyncio.run(measure(url, customers, offers, options.ids))
            if options.json:
                print(json.dumps(found), flush=True)
            else:
                show(found)


if __name__ == "__main__":
    main()
