"""Connections to PostgreSQL, transactions on them, and one meaning for every way they fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

import psycopg
from psycopg import AsyncConnection, IsolationLevel
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool

from store.cancellation import cancellable
from store.records import StoreUnavailable
from store.settings import Settings

Connection = AsyncConnection[tuple[Any, ...]]
Pool = AsyncConnectionPool[Connection]
T = TypeVar("T")

#: A server that is there answers a connect at once; more is a network that drops packets.
CONNECT_TIMEOUT_S: Final = 3
#: Longest wait for a free connection, or for the server to come back.
CHECKOUT_TIMEOUT_S: Final = 2.0
#: A writer that froze or lost its machine may hold a lock for this long.
IDLE_IN_TRANSACTION_MS: Final = 30_000
#: Last resort of one transaction, for a server that holds the line but says nothing.
TRANSACTION_TIMEOUT_S: Final = 60.0


def make_pool(
    settings: Settings, *, max_size: int, statement_timeout_ms: int | None = None
) -> Pool:
    """A pool of at most `max_size` connections to `settings.database_url`, not opened.

    What the URL itself says (connect_timeout, keepalives, options…) wins over what is set here."""
    return AsyncConnectionPool(
        settings.database_url,
        kwargs=connect_options(settings.database_url, statement_timeout_ms=statement_timeout_ms),
        min_size=0,
        max_size=max_size,
        open=False,
        # A connection that died while idle (server restart, failover) is replaced, not handed out.
        check=AsyncConnectionPool.check_connection,
        reset=_reset,
        timeout=CHECKOUT_TIMEOUT_S,
        # The pool's back-off doubles without limit: after a long outage it would go on failing for
        # minutes. Giving up soon makes the next caller try anew.
        reconnect_timeout=1.0,
        max_idle=300.0,
        max_lifetime=3600.0,
    )


async def _reset(connection: Connection) -> None:
    """Takes back what `transaction` set, for whoever uses the connection without it."""
    await connection.set_isolation_level(None)
    await connection.set_read_only(None)


def connect_options(
    database_url: str, *, statement_timeout_ms: int | None = None
) -> dict[str, Any]:
    """Keyword arguments for `psycopg.connect` beside the URL. Raises ValueError for a bad URL."""
    try:
        given = conninfo_to_dict(database_url)
    except psycopg.ProgrammingError as error:
        raise ValueError(f"DATABASE_URL: {str(error).strip()}") from None
    settings = [
        f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_MS}",
        "-c jit=off",  # compiles for longer than our statements run
    ]
    if statement_timeout_ms is not None:
        settings.append(f"-c statement_timeout={statement_timeout_ms}")
    defaults: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "interaction-summary",
        # A peer that vanished is noticed in about 15 s.
        "keepalives_idle": 5,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    }
    options = {name: value for name, value in defaults.items() if name not in given}
    options["options"] = " ".join([*settings, str(given.get("options") or "")]).strip()
    # Named statements would pin one plan for every window and every tenant, and cross a pooler
    # badly; planning costs a fraction of what these statements do.
    options["prepare_threshold"] = None
    return options


@contextmanager
def postgres_errors() -> Iterator[None]:
    """Turns every failure to get an answer into `StoreUnavailable`; other errors pass."""
    try:
        yield
    except TimeoutError:
        raise StoreUnavailable("Postgres: no answer in time") from None
    except psycopg.errors.UndefinedTable as error:
        raise StoreUnavailable(f"Postgres: {_line(error)} (run `migrate` first)") from error
    except (
        psycopg.OperationalError,
        psycopg.InterfaceError,
        psycopg.errors.ReadOnlySqlTransaction,  # connected to a standby during a failover
    ) as error:
        raise StoreUnavailable(f"Postgres: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@asynccontextmanager
async def transaction(
    pool: Pool,
    *,
    read_only: bool = False,
    snapshot: bool = False,
    timeout_s: float = TRANSACTION_TIMEOUT_S,
) -> AsyncIterator[Connection]:
    """One transaction on a connection of `pool`: committed at the end, rolled back on an error.

    `snapshot`: all its statements see the database as of the first one. Raises StoreUnavailable
    when Postgres cannot be reached, gives up a statement, or says nothing for `timeout_s`."""
    level = IsolationLevel.REPEATABLE_READ if snapshot else IsolationLevel.READ_COMMITTED
    with postgres_errors(), cancellable():
        async with asyncio.timeout(timeout_s), pool.connection() as connection:
            # Attributes of the client: they go with the BEGIN, at no round trip of their own.
            await connection.set_isolation_level(level)
            await connection.set_read_only(read_only)
            async with connection.transaction():
                yield connection


#: Reads that nobody waits for any more, until they have given up.
_abandoned: set[asyncio.Task[Any]] = set()


async def bounded(read: Coroutine[Any, Any, T], timeout_s: float) -> T:
    """What `read` returns, if it does within `timeout_s`; else raises StoreUnavailable.

    For reads. A cancelled statement asks a frozen server to stop, and waits up to 10 s for its
    answer: whoever gives up, or is cancelled, does not wait for that."""
    task = asyncio.create_task(read)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
        if not done:
            raise StoreUnavailable(f"Postgres: no answer in {timeout_s:g} s")
    finally:
        if not task.done():
            task.cancel()
            _abandoned.add(task)
            task.add_done_callback(_forget)
    return task.result()


def _forget(task: asyncio.Task[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # seen: or asyncio would complain that nobody looked


async def ping(pool: Pool, *, timeout_s: float = 2 * CHECKOUT_TIMEOUT_S) -> None:
    """Returns when Postgres answers a statement; raises StoreUnavailable otherwise."""
    await bounded(_ping(pool), timeout_s)


async def _ping(pool: Pool) -> None:
    async with transaction(pool, read_only=True) as connection:
        await connection.execute("SELECT 1")
