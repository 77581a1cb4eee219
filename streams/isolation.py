"""Isolation of records on which the program itself fails, so that the others of a batch count.

A step that raises an error that nobody expects is repeated with half of its records, down to the
record that makes it fail. Only that one is rejected. A bug that fails on many records must not
reject them all: beyond a limit the error ends the worker, as any error of the program does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from store.logs import get_logger
from store.records import StoreUnavailable
from streams.tenant_state import RewindRequired

logger = get_logger("isolation")
T = TypeVar("T")

#: At most FAILURES_MAX of the last WINDOW_RECORDS records of a worker may be rejected like this.
FAILURES_MAX: Final = 10
WINDOW_RECORDS: Final = 1_000


class Isolation:
    """Bound on the records that fail, and the search for them. One for all parts of a worker."""

    def __init__(
        self, *, failures_max: int = FAILURES_MAX, window_records: int = WINDOW_RECORDS
    ) -> None:
        self._failures_max = failures_max
        self._window_records = window_records
        self._records = 0
        self._failures: deque[int] = deque()

    def note_records(self, n: int) -> None:
        """Note that `n` further records were read."""
        self._records += n

    def note_failure(self, error: Exception, *, partition: int, offset: int) -> None:
        """Log that a record failed; raise the error if there are too many such records."""
        while self._failures and self._failures[0] <= self._records - self._window_records:
            self._failures.popleft()
        self._failures.append(self._records)
        logger.error(
            "record cannot be processed",
            partition=partition,
            offset=offset,
            error=f"{type(error).__name__}: {error}",
            exc_info=error,
        )
        if len(self._failures) > self._failures_max:
            logger.error(
                "too many records cannot be processed: the worker ends",
                failures=len(self._failures),
                of_the_last=self._window_records,
            )
            raise error

    async def run(
        self,
        items: Sequence[T],
        process: Callable[[Sequence[T]], Awaitable[None]],
        reject: Callable[[T, Exception], Awaitable[None]],
    ) -> None:
        """Process the items in order; call `reject` for each with which `process` fails alone.

        `process` is called with all items, and after an error with each half of them. So it must be
        safe to call it again for items that it has processed. StoreUnavailable and RewindRequired
        are raised: they are not about the items.
        """
        try:
            await process(items)
        except (StoreUnavailable, RewindRequired):
            raise
        except Exception as error:
            if not items:
                raise
            if len(items) == 1:
                await reject(items[0], error)
                return
            middle = len(items) // 2
            await self.run(items[:middle], process, reject)
            await self.run(items[middle:], process, reject)
