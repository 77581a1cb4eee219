"""A bug inside a driver is an unavailable store; a bug of our own is not hidden."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop
from aiokafka.partitioner import murmur2
from psycopg.rows import namedtuple_row
from redis.crc import key_slot

from store.postgres.pool import postgres_errors
from store.records import StoreUnavailable
from store.redis.client import redis_errors
from streams.kafka.errors import kafka_errors


def inside_redis(call: Callable[[], object]) -> None:
    async def go() -> None:
        async with redis_errors():
            call()

    asyncio.run(go())


def inside_postgres(call: Callable[[], object]) -> None:
    with postgres_errors():
        call()


def inside_kafka(call: Callable[[], object]) -> None:
    with kafka_errors():
        call()


def own_bug() -> None:
    raise AttributeError("of our own")


@pytest.mark.parametrize(
    ("inside", "call", "message"),
    [
        (inside_redis, lambda: key_slot(None), "Redis: AttributeError: 'NoneType'"),  # type: ignore[arg-type]
        (inside_postgres, lambda: namedtuple_row(None), "Postgres: AttributeError: 'NoneType"),  # type: ignore[arg-type]
        (inside_kafka, lambda: murmur2(None), "Kafka: TypeError: object of type 'NoneType'"),
    ],
)
def test_an_error_that_a_driver_raises_by_mistake_is_an_unavailable_store(
    inside: Callable[[Callable[[], object]], None], call: Callable[[], object], message: str
) -> None:
    with pytest.raises(StoreUnavailable, match=message):
        inside(call)


@pytest.mark.parametrize("inside", [inside_redis, inside_postgres, inside_kafka])
def test_an_error_of_our_own_stays(inside: Callable[[Callable[[], object]], None]) -> None:
    with pytest.raises(AttributeError, match="of our own"):
        inside(own_bug)


async def closed_connection() -> asyncio.StreamWriter:
    """Return a connection that was closed on both sides."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.close()
        await writer.wait_closed()
    return writer


@pytest.mark.parametrize("inside", [inside_redis, inside_postgres, inside_kafka])
def test_a_write_to_a_connection_that_was_closed_meanwhile_is_an_unavailable_store(
    inside: Callable[[Callable[[], object]], None],
) -> None:
    writer = uvloop.run(closed_connection())
    with pytest.raises(StoreUnavailable, match=r"RuntimeError: .*the handler is closed"):
        inside(lambda: writer.writelines([b"PING"]))
