"""The bounds of the answers that are kept, and which answers are."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import ref

from hypothesis import given
from hypothesis import strategies as st

from api.answer_cache import ENTRY_BYTES, AnswerCache, CachedAnswers, Key
from api.params import Params
from api.reader import KnownAnswer, SummaryReader
from api.responses import Body
from api.routes import encode
from store.records import Catalog, CounterPage, GroupCounts, Page, Question, Unchanged
from store.settings import Settings
from tests.support.contract import question
from tests.support.events import NOW_MS

CATALOG = Catalog("acme")
KNOWN = KnownAnswer(b"1", question("action", "monthly"), ref(CATALOG))


def key_of(name: str) -> Key:
    return Key(name, Params(), "application/json")


def body_of(size: int) -> Body[Question]:
    return Body(b"x" * size, '"e"', KNOWN.question, "materialized", 0)


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 4_000), st.booleans())),
    st.integers(0, 20_000),
    st.integers(1, 4),
)
def test_the_most_recently_used_are_kept_within_both_bounds(
    uses: list[tuple[str, int, bool]], bytes_max: int, entries_max: int
) -> None:
    cache = AnswerCache(bytes_max, entries_max)
    kept: dict[str, int] = {}  # in order of use
    for name, size, is_put in uses:
        if is_put:
            kept.pop(name, None)
            cache.put(key_of(name), KNOWN, body_of(size))
            if size + ENTRY_BYTES <= bytes_max:
                kept[name] = size
            while len(kept) > entries_max or _bytes(kept) > bytes_max:
                del kept[next(iter(kept))]
        else:
            found = cache.get(key_of(name))
            assert (found is not None) == (name in kept)
            if found is not None:
                kept[name] = kept.pop(name)
                assert len(found.body.content) == kept[name]
        assert cache.size_bytes == _bytes(kept)


def _bytes(kept: dict[str, int]) -> int:
    return sum(size + ENTRY_BYTES for size in kept.values())


class Stores:
    """Counters that give their answers in order, and one catalog."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.known: list[bytes | None] = []
        self.catalog = Catalog("acme", version=3)
        reader = SummaryReader(Settings(), counters=self, history=self, catalogs=self)  # type: ignore[arg-type]
        self.cached = CachedAnswers(reader, encode, now_ms=lambda: NOW_MS, bytes_max=1_000_000)

    async def read(self, asked: Question) -> Any:
        self.known.append(asked.known_version)
        return self.answers.pop(0)

    async def get(self, tenant: str, *, at_least_version: int = 0) -> Catalog:
        return self.catalog

    def ask(self, times: int) -> list[Body[Question]]:
        async def go() -> list[Body[Question]]:
            return [
                await self.cached.body("acme", Params(), "application/json") for _ in range(times)
            ]

        return asyncio.run(go())


def page(version: bytes, total: int = 1, catalog_version: int = 0) -> CounterPage:
    groups = [GroupCounts("off_1", {"impression": total})]
    return CounterPage(Page(groups, 1), catalog_version, version=version)


def test_a_body_is_sent_again_with_the_lag_of_now() -> None:
    stores = Stores(page(b"v1"), Unchanged(pending=7), page(b"v2", 2), Unchanged())
    first, again, other, last = stores.ask(4)
    assert stores.known == [b"", b"v1", b"v1", b"v2"]
    assert again == first._replace(pending=7)
    assert again.content is first.content
    assert other.content != first.content
    assert last == other


def test_an_answer_without_a_version_is_not_kept_and_ends_the_one_before() -> None:
    stores = Stores(page(b"v1"), page(b""), page(b"v1"))
    stores.ask(3)
    assert stores.known == [b"", b"v1", b""]


def test_an_answer_with_outdated_names_is_not_kept() -> None:
    """The catalog that the counters know could not be loaded: the next answer looks again."""
    stores = Stores(page(b"v1", catalog_version=4), page(b"v1", catalog_version=4))
    stores.ask(2)
    assert stores.known == [b"", b""]


def test_another_catalog_ends_it_whatever_its_version() -> None:
    stores = Stores(page(b"v1"), page(b"v1"))
    stores.ask(1)
    stores.catalog = Catalog("acme", version=3)
    stores.ask(1)
    assert stores.known == [b"", b""]
