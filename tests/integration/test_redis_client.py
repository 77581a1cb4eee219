"""The Redis client stays usable, for all who share it, when the primary turns into a replica."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from store.records import StoreUnavailable
from store.redis.client import Client, Script, make_client
from store.settings import Settings

SHARERS = 8
ROUNDS = 5


async def ending(client: Client, key: str, written: Script) -> str:
    """How one writing script ended; anything but an answer and StoreUnavailable is raised."""
    try:
        await written(client, key, 1, 100)
    except StoreUnavailable as error:
        return str(error)
    return "done"


def test_a_primary_that_turns_replica_breaks_no_command_of_others(redis_url: str) -> None:
    """Each of many tasks sees StoreUnavailable or an answer, never a connection that another
    task closed under it; and once the server writes again, each of them is served."""

    async def run() -> None:
        client = make_client(Settings(redis_url=redis_url), timeout_s=5, retries=0)
        admin = Redis.from_url(redis_url)
        drop = Script("drop")
        seen: set[str] = set()

        async def sharer(number: int) -> None:
            for step in range(40):
                # Out of step with the others, so that one connects while another is refused.
                for _ in range((number * 7 + step) % 11):
                    await asyncio.sleep(0)
                seen.add(await ending(client, f"is:{{t{number}/0}}:meta", drop))

        try:
            for _ in range(ROUNDS):
                await admin.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]
                await asyncio.gather(*(sharer(number) for number in range(SHARERS)))
                await admin.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
                ends = await asyncio.gather(
                    *(ending(client, f"is:{{t{n}/0}}:meta", drop) for n in range(SHARERS))
                )
                assert set(ends) == {"done"}, ends
        finally:
            await admin.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
            await admin.aclose()
            await client.aclose()
        assert any("ReadOnlyError" in end for end in seen), "the replica refused nobody"

    asyncio.run(run())
