"""Answers that are kept: the bytes of a body, sent again while the counters say it is the same.

The counters are asked for every answer, with the version of the body that is kept. They answer with
a page, or that nothing has changed, which costs them and this process little (ADR 0026).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from api.accept import Representation
from api.joined_reads import JoinedReads
from api.params import Params
from api.reader import Answer, KnownAnswer, SummaryReader, Uncounted
from api.responses import Body
from store import metrics
from store.records import Catalog, Page, Question, Unchanged

#: Bytes of an entry besides its body: key, question, version.
ENTRY_BYTES: Final = 1_500
#: Maximum entries, however small.
ENTRIES_MAX: Final = 20_000


class Key(NamedTuple):
    """What a body depends on, besides the version of the answer."""

    tenant: str
    params: Params
    representation: Representation


class _Entry(NamedTuple):
    """A body, and what it is valid for."""

    known: KnownAnswer
    body: Body[Question]

    @property
    def size_bytes(self) -> int:
        return len(self.body.content) + ENTRY_BYTES


class AnswerCache:
    """The most recently used bodies, bounded in bytes and entries; no bytes = nothing is kept."""

    def __init__(self, bytes_max: int, entries_max: int = ENTRIES_MAX) -> None:
        self.bytes_max = bytes_max
        self.size_bytes = 0
        self._entries_max = entries_max
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def get(self, key: Key) -> _Entry | None:
        """Return the entry of a key, which is the most recently used one then."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: Key, known: KnownAnswer, body: Body[Question]) -> None:
        """Keep a body in place of the one before, and drop the least recently used ones.

        Without a version it is not kept.
        """
        former = self._entries.pop(key, None)
        if former is not None:
            self.size_bytes -= former.size_bytes
        entry = _Entry(known, body)
        if not known.version or entry.size_bytes > self.bytes_max:
            return
        self._entries[key] = entry
        self.size_bytes += entry.size_bytes
        while self.size_bytes > self.bytes_max or len(self._entries) > self._entries_max:
            _, oldest = self._entries.popitem(last=False)
            self.size_bytes -= oldest.size_bytes


class CachedAnswers:
    """Bodies of answers, kept or made. For one event loop."""

    def __init__(
        self,
        reader: SummaryReader,
        encode: Callable[[Answer[Question, Page], Params, Representation], bytes],
        *,
        now_ms: Callable[[], int],
        bytes_max: int,
    ) -> None:
        """`encode` makes the body; `now_ms` is the clock for the current day."""
        self._reader = reader
        self._encode = encode
        self._now_ms = now_ms
        self._cache = AnswerCache(bytes_max)
        self._reads: JoinedReads[Key, Body[Question] | Uncounted[Question]] = JoinedReads()

    async def body(
        self, tenant: str, params: Params, representation: Representation
    ) -> Body[Question]:
        """Return the body for a question of `tenant` now.

        Raises ApiError 503, or 400 if `encode` does.
        """
        # Not in the shared read, as the first question of a tenant may wait long for it.
        catalog = await self._reader.catalog(tenant)
        key, is_read = Key(tenant, params, representation), False

        async def read() -> Body[Question] | Uncounted[Question]:
            nonlocal is_read
            is_read = True
            return await self._read(key, catalog)

        found = await self._reads.read(key, read)
        if isinstance(found, Uncounted):
            kind = self._reader.page(tenant, params)
            return self._made(await self._reader.historic(kind, found), key)
        if not is_read:  # the reader has counted one answer
            metrics.API_ANSWERS.labels("materialized").inc()
            metrics.API_ANSWER_CACHE.labels("shared").inc()
        return found

    async def _read(self, key: Key, catalog: Catalog) -> Body[Question] | Uncounted[Question]:
        """Return the body that the counters have, kept or made."""
        entry = self._cache.get(key)
        kind = self._reader.page(key.tenant, key.params, entry.known if entry else None)
        found = await self._reader.counted(kind, catalog, self._now_ms())
        if isinstance(found, Uncounted):
            return found
        if isinstance(found, Unchanged):
            assert entry is not None  # only a known answer can be unchanged
            metrics.API_ANSWER_CACHE.labels("kept").inc()
            return entry.body._replace(pending=found.pending)
        body = self._made(found, key)
        if self._cache.bytes_max:
            if entry:
                metrics.API_ANSWER_CACHE.labels("changed").inc()
            else:
                metrics.API_ANSWER_CACHE.labels("new").inc()
            self._cache.put(key, KnownAnswer.of(found), body)
            metrics.API_ANSWER_CACHE_BYTES.set(self._cache.size_bytes)
        return body

    def _made(self, answer: Answer[Question, Page], key: Key) -> Body[Question]:
        return Body.of(answer, self._encode(answer, key.params, key.representation))
