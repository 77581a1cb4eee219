"""Fuzz run of the decoder: mutated events, each decoded and checked against what it promises.

`python -m tests.support.decoder_fuzz --inputs 1000000` runs it; a test runs a short one.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from typing import Final
from uuid import UUID

from store.postgres import copyrows
from store.records import Event, SourcedEvent, is_tenant
from store.settings import Settings
from streams.decode.decoder import make_decoder
from streams.decode.event import ID_CHARS_MAX
from streams.decode.fast import read_fast
from streams.decode.rejection import InvalidEventError, Reason, Rejected, Skipped
from streams.decode.strict import read_strict
from tests.support.events import NOW_MS
from tests.support.fuzz_stream import MUTATIONS, records

#: Further mutations of one input: one in so many gets another one.
AGAIN: Final = 0.4
_TOPIC_ID: Final = UUID(int=1)


def run(inputs: int, seed: int) -> Counter[str]:
    """Decode `inputs` mutated events; return result -> number. Raises AssertionError."""
    decoder = make_decoder(Settings())
    chosen = random.Random(seed)
    results: Counter[str] = Counter()
    for record in records(seed, inputs, NOW_MS):
        value = record.value
        while value and len(value) < 100_000 and chosen.random() < AGAIN:
            try:
                value = chosen.choice(MUTATIONS)(value, chosen)
            except (ValueError, KeyError, TypeError, IndexError, RecursionError):
                break  # a mutation of JSON that is none any more
        results[_check(decoder.decode(value, NOW_MS), value)] += 1
    return results


def _check(result: Event | Skipped | Rejected, value: bytes | None) -> str:
    """Check one result; return its name."""
    shown = (value or b"")[:500]
    if isinstance(result, Skipped):
        return "skipped"
    if isinstance(result, Rejected):
        assert result.reason != Reason.UNPROCESSABLE, (result.detail, shown)
        result.detail.encode()  # becomes a header
        return result.reason
    assert value is not None
    assert is_tenant(result.tenant), shown
    assert len(result.event_id) == 16, shown
    assert result.occurred_ms <= NOW_MS + 300_000, shown
    for text in (result.customer, result.offer, result.creative, result.channel, result.outcome):
        assert text is None or (1 <= len(text) <= ID_CHARS_MAX and "\0" not in text), shown
    # PostgreSQL's text holds every string but one with NUL; a lone surrogate has no UTF-8.
    copied = copyrows.encode(
        [SourcedEvent(result, 0, NOW_MS)], topic="t", topic_id=_TOPIC_ID, partition=0
    )
    assert copied, shown
    try:
        fast = read_fast(value)
    except InvalidEventError:
        fast = None
    assert fast is None or fast == read_strict(value), shown
    return "event"


def main() -> None:
    """Run it and print what the inputs were decoded to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    start_s = time.perf_counter()
    results = run(arguments.inputs, arguments.seed)
    print(f"{arguments.inputs:,} inputs, seed {arguments.seed}: none broke a promise")
    for name, number in results.most_common():
        print(f"  {name}: {number:,}")
    print(f"{time.perf_counter() - start_s:.0f} s")


if __name__ == "__main__":
    main()
