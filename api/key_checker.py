"""Checks of API keys against the active keys in memory, which are loaded when they change.

No request waits for a query: a background task asks every second whether any key has changed. So a
revoked key is refused at most REFRESH_S + LOAD_TIMEOUT_S later, and the time that the load takes,
in each process: also if one load is not answered, as by a server that is gone.
"""

from __future__ import annotations

import asyncio
import hmac
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from api.errors import unavailable
from store import metrics
from store.api_keys import ApiKey, hash_key, is_key
from store.logs import get_logger

logger = get_logger("api")

REFRESH_S: Final = 1.0
LOAD_TIMEOUT_S: Final = 3.0
#: An unknown key may be new: it causes a refresh, but not more often than this.
UNKNOWN_REFRESH_S: Final = 0.2
#: How long a request with an unknown key waits for the answer of that refresh.
UNKNOWN_WAIT_S: Final = 0.25
#: Requests that wait for it; further unknown keys are refused at once. So a flood of invalid keys
#: costs 5 queries a second, and leaves the other requests their places.
UNKNOWN_WAITERS_MAX: Final = 50
#: Keys that wait to be hashed with the current pepper; further ones wait for their next use.
REHASHES_MAX: Final = 100


class KeySource(Protocol):
    """Table of the keys. Both methods raise StoreUnavailable."""

    async def load(self, known_version: int) -> tuple[int, tuple[ApiKey, ...]] | None:
        """Return a version and its active keys, or None if `known_version` is the current one.

        Must end at once when it is cancelled.
        """
        ...

    async def rehash(self, stored: ApiKey, key: str) -> None:
        """Replace the hash of `key` by the one with the current pepper."""
        ...


class KeyChecker:
    """The active keys by their hash, kept up to date by `run`. For one event loop."""

    def __init__(
        self,
        source: KeySource,
        *,
        pepper: str,
        previous_pepper: str,
        stale_max_s: float,
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Check keys whose hash is with `pepper`, or with `previous_pepper` if that is not empty.

        Keys are accepted for `stale_max_s` seconds after the last successful refresh.
        """
        self._source = source
        self._pepper = pepper
        self._previous = previous_pepper
        self._stale_max_s = stale_max_s
        self._monotonic = monotonic
        self._sleep = sleep
        self._keys: Mapping[bytes, ApiKey] = {}
        self._version = -1
        self._refreshed_s = -math.inf
        self._began_s = -math.inf
        self._refreshing: asyncio.Task[None] | None = None
        self._rehashing: asyncio.Task[None] | None = None
        self._loads = 0
        self._waiters = 0
        self._rehashes: dict[str, tuple[ApiKey, str]] = {}

    async def run(self) -> None:
        """Refresh the keys every REFRESH_S seconds, or when the last refresh ends, if later."""
        try:
            while True:
                await self.refresh()
                self._start_rehash()
                elapsed_s = self._monotonic() - self._began_s
                await self._sleep(max(0.0, REFRESH_S - elapsed_s))
        finally:
            for task in (self._refreshing, self._rehashing):
                if task is not None:
                    task.cancel()

    async def check(self, key: str) -> ApiKey | None:
        """Return the stored key, or None if it is unknown or revoked.

        Raises ApiError 503 if the keys were not refreshed for too long.
        """
        if not is_key(key):
            return None
        found = self._find(key)
        if found is None and self._waiters < UNKNOWN_WAITERS_MAX:
            self._waiters += 1
            try:
                await self._refresh_for_unknown()
            finally:
                self._waiters -= 1
            found = self._find(key)
        if self._monotonic() - self._refreshed_s > self._stale_max_s:
            raise unavailable("API keys cannot be checked now; try again", retry_after_s=2)
        return found

    async def _refresh_for_unknown(self) -> None:
        """Wait for a refresh that begins after this call."""
        before = self._loads
        await self._sleep(max(0.0, self._began_s + UNKNOWN_REFRESH_S - self._monotonic()))
        if self._loads == before:
            self._start_refresh()
        assert self._refreshing is not None
        await asyncio.wait([self._refreshing], timeout=UNKNOWN_WAIT_S)

    def _find(self, key: str) -> ApiKey | None:
        found = self._find_hash(hash_key(key, self._pepper))
        if found is None and self._previous:
            found = self._find_hash(hash_key(key, self._previous))
            if found is not None and len(self._rehashes) < REHASHES_MAX:
                self._rehashes[found.id] = (found, key)
        return found

    def _find_hash(self, key_hash: bytes) -> ApiKey | None:
        # A client does not know the pepper, so it cannot choose a hash: the time of this look-up
        # says nothing about a stored one. The comparison takes constant time all the same.
        found = self._keys.get(key_hash)
        return found if found and hmac.compare_digest(found.key_hash, key_hash) else None

    async def refresh(self) -> None:
        """Load the keys if they have changed. A failure is logged and not raised."""
        await asyncio.wait([self._start_refresh()])

    def _start_refresh(self) -> asyncio.Task[None]:
        """Return the refresh in flight, or start one."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._load(), name="api-keys")
        return self._refreshing

    async def _load(self) -> None:
        self._loads += 1
        self._began_s = began_s = self._monotonic()
        was_current = began_s - self._refreshed_s < 2 * (REFRESH_S + LOAD_TIMEOUT_S)
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                loaded = await self._source.load(self._version)
        except Exception as error:  # whatever it is, the next attempt must be made
            age_s = began_s - self._refreshed_s
            metrics.API_KEYS_AGE.set(age_s if age_s < math.inf else -1)
            if was_current or age_s == math.inf:
                logger.warning("API keys not refreshed", cause=str(error) or type(error).__name__)
            return
        if loaded is not None:
            self._version, keys = loaded
            self._keys = {key.key_hash: key for key in keys}
        self._refreshed_s = began_s
        metrics.API_KEYS_AGE.set(0)

    def _start_rehash(self) -> None:
        """Start the task that rehashes. The refresh must not wait for it: it may wait for locks."""
        if self._rehashes and (self._rehashing is None or self._rehashing.done()):
            self._rehashing = asyncio.create_task(self._rehash(), name="api-keys-rehash")

    async def _rehash(self) -> None:
        """Store the hash with the current pepper of the keys that were used with the previous."""
        for key_id, (stored, key) in list(self._rehashes.items()):
            try:
                await self._source.rehash(stored, key)
            except Exception as error:  # as a missing right to UPDATE; the key works all the same
                logger.warning("API key not rehashed", key_id=key_id, cause=str(error))
                return
            del self._rehashes[key_id]
            logger.info("API key rehashed with the current pepper", key_id=key_id)
