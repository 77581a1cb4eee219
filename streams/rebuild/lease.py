"""Lease of a rebuild: at most one rebuild of a tenant runs at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from store.logs import get_logger
from store.records import StoreUnavailable
from store.redis.builds import LeaseHeld, RedisBuilds
from streams.rebuild.errors import AlreadyRunningError

logger = get_logger("rebuild")

#: A killed rebuild blocks the next one for at most this long.
LEASE_MS: Final = 10_000
RENEW_S: Final = 2.0


@asynccontextmanager
async def lease(builds: RedisBuilds, tenant: str, token: str) -> AsyncIterator[None]:
    """Hold the tenant's lease inside the block.

    If another rebuild has it, wait until the other one either renews it, which shows that it runs,
    or lets it end. Raises AlreadyRunningError if it runs, and StoreUnavailable.
    """
    holder = f"process {os.getpid()} on {socket.gethostname()}"

    async def take() -> LeaseHeld | None:
        return await builds.take_lease(tenant, token, holder=holder, lease_ms=LEASE_MS)

    held = await take()
    deadline_s = time.monotonic() + 2 * LEASE_MS / 1e3
    while held is not None:
        await asyncio.sleep(RENEW_S / 4)
        again = await take()
        if again is not None and (again.left_ms > held.left_ms or time.monotonic() > deadline_s):
            raise AlreadyRunningError(
                f"tenant {tenant}: another rebuild or removal of it is running ({again.holder}); "
                "wait for its end, or stop it"
            )
        held = again
    renewing = asyncio.create_task(_renew(builds, tenant, token, holder))
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):  # it ends by itself
            await builds.free_lease(tenant, token)


async def _renew(builds: RedisBuilds, tenant: str, token: str, holder: str) -> None:
    """Renew the lease until cancelled.

    A lost lease does no harm: the build token keeps others from the generation under construction.
    """
    while True:
        await asyncio.sleep(RENEW_S)
        try:
            held = await builds.keep_lease(tenant, token, holder=holder, lease_ms=LEASE_MS)
        except StoreUnavailable as error:
            logger.info("lease of the rebuild not renewed", tenant=tenant, error=str(error))
            continue
        if held is not None:
            logger.warning("lease of the rebuild lost", tenant=tenant, holder=held.holder)
            return
