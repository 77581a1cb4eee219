"""Connections to PostgreSQL, transactions, and the conversion of their errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ClassVar, Final, Self, TypeVar

import psycopg
from psycopg import AsyncConnection, IsolationLevel
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from store.cancellation import cancellable
from store.driver_errors import AMBIGUOUS, is_raised_in
from store.records import AccessRefused, StoreUnavailable
from store.settings import Settings

Connection = AsyncConnection[tuple[Any, ...]]
Pool = AsyncConnectionPool[Connection]
T = TypeVar("T")

#: A running server answers a connect at once; a longer wait means that packets are dropped.
CONNECT_TIMEOUT_S: Final = 3
#: Longest wait for a free connection, or for the server to come back.
CHECKOUT_TIMEOUT_S: Final = 2.0
#: Longest time that a frozen or disconnected writer keeps its locks.
IDLE_IN_TRANSACTION_MS: Final = 30_000
#: What a failure to connect is called where retrying does not help, and what to look at then.
_CHECK: Final = "user, password, sslmode, sslrootcert"
_REFUSALS: Final = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "is not permitted to log in",
    "SSL error",
    "server does not support SSL",
    "server certificate for",
    "root certificate file",
    "certificate file",
    "private key file",
)
#: Bound of one transaction, for a server that keeps the connection open but does not answer.
TRANSACTION_TIMEOUT_S: Final = 60.0


class _PoolConnection(AsyncConnection[tuple[Any, ...]]):
    """Connection of one pool, whose class remembers why the last attempt to connect failed.

    The pool itself reports only that it has no connection.
    """

    failure: ClassVar[psycopg.Error | None] = None

    @classmethod
    async def connect(cls, conninfo: str = "", **options: Any) -> Self:
        try:
            connection = await super().connect(conninfo, **options)
        except psycopg.Error as error:
            cls.failure = error
            raise
        cls.failure = None
        return connection


def make_pool(
    settings: Settings, *, max_size: int, statement_timeout_ms: int | None = None
) -> Pool:
    """Return a pool of at most `max_size` connections to `settings.database_url`, not opened.

    Options in the URL (connect_timeout, keepalives, options…) override the ones set here.
    """
    return AsyncConnectionPool(
        settings.database_url,
        connection_class=type("PoolConnection", (_PoolConnection,), {}),
        kwargs=connect_options(settings.database_url, statement_timeout_ms=statement_timeout_ms),
        min_size=0,
        max_size=max_size,
        open=False,
        # A connection that broke while idle (server restart, failover) is replaced on checkout.
        check=AsyncConnectionPool.check_connection,
        reset=_reset,
        timeout=CHECKOUT_TIMEOUT_S,
        # The pool's back-off doubles without limit: after a long outage it would keep failing for
        # minutes. With a short timeout the next caller starts a new attempt.
        reconnect_timeout=1.0,
        max_idle=300.0,
        max_lifetime=3600.0,
    )


@asynccontextmanager
async def open_pool(
    settings: Settings, *, max_size: int, statement_timeout_ms: int | None = None
) -> AsyncIterator[Pool]:
    """Yield an open pool made by `make_pool`, and close it at the end.

    Opening does not wait for a connection: it succeeds even if Postgres is unavailable.
    """
    async with make_pool(
        settings, max_size=max_size, statement_timeout_ms=statement_timeout_ms
    ) as pool:
        yield pool


async def _reset(connection: Connection) -> None:
    """Undo the settings of `transaction`, for a caller that uses the connection without it."""
    await connection.set_isolation_level(None)
    await connection.set_read_only(None)


def connect_options(
    database_url: str, *, statement_timeout_ms: int | None = None
) -> dict[str, Any]:
    """Return keyword arguments for `psycopg.connect`. Raises ValueError for a malformed URL."""
    try:
        given = conninfo_to_dict(database_url)
    except psycopg.ProgrammingError:
        # The error quotes parts of the URL, the password among them.
        raise ValueError(
            "DATABASE_URL is not valid: it must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
            "with special characters in USER and PASSWORD percent-encoded"
        ) from None
    settings = [
        f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_MS}",
        "-c jit=off",  # compiling takes longer than our statements run
    ]
    if statement_timeout_ms is not None:
        settings.append(f"-c statement_timeout={statement_timeout_ms}")
    defaults: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "interaction-summary",
        # A dead peer is noticed in about 15 s.
        "keepalives_idle": 5,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
    }
    options = {name: value for name, value in defaults.items() if name not in given}
    options["options"] = " ".join([*settings, str(given.get("options") or "")]).strip()
    # Prepared statements would use one plan for every window and every tenant, and do not work
    # well through a pooler; planning costs a fraction of the execution of these statements.
    options["prepare_threshold"] = None
    return options


@contextmanager
def postgres_errors() -> Iterator[None]:
    """Raise StoreUnavailable for every failure to get an answer; other errors pass."""
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
        line = _line(error)
        if isinstance(error, psycopg.OperationalError) and is_refusal(line):
            raise AccessRefused(f"Postgres: {line}; check DATABASE_URL ({_CHECK})") from error
        raise StoreUnavailable(f"Postgres: {line}") from error
    except AMBIGUOUS as error:
        if not is_raised_in(error, "psycopg", "psycopg_pool"):
            raise
        raise StoreUnavailable(f"Postgres: {type(error).__name__}: {_line(error)}") from error


def is_refusal(message: str) -> bool:
    """Return whether a failure to connect is one of TLS or authentication. Pure.

    libpq gives no code, only the text. The server's part of it may be in another language: then
    the failure is retried like any other.
    """
    return any(part in message for part in _REFUSALS)


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
    """Run a transaction on a connection of `pool`: commit at the end, roll back on an error.

    With `snapshot` all statements see the database as of the first one. Raises StoreUnavailable
    if Postgres cannot be reached, cancels a statement, or does not answer within `timeout_s`.
    """
    level = IsolationLevel.REPEATABLE_READ if snapshot else IsolationLevel.READ_COMMITTED
    with postgres_errors():
        async with cancellable(), asyncio.timeout(timeout_s), _connection(pool) as connection:
            # Attributes of the client: they are sent with BEGIN, without an extra round trip.
            await connection.set_isolation_level(level)
            await connection.set_read_only(read_only)
            async with connection.transaction():
                yield connection


@asynccontextmanager
async def _connection(pool: Pool) -> AsyncIterator[Connection]:
    """Check a connection out. Raises the error of the last attempt to connect if there is none."""
    try:
        async with pool.connection() as connection:
            yield connection
    except PoolTimeout as error:
        raise getattr(pool.connection_class, "failure", None) or error from None


#: Reads whose caller has stopped waiting, until they end. Keeps a reference to the tasks.
_abandoned: set[asyncio.Task[Any]] = set()


async def bounded(read: Coroutine[Any, Any, T], timeout_s: float) -> T:
    """Return the result of `read`; raise StoreUnavailable if it takes longer than `timeout_s`.

    For reads only. Cancelling a statement on a frozen server waits up to 10 s for its answer; a
    caller that times out, or is cancelled, does not wait for that.
    """
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
        task.exception()  # retrieved, or asyncio would log that it never was


async def connect_once(settings: Settings) -> None:
    """Connect and disconnect, without a second attempt.

    Raises AccessRefused if TLS or authentication fails, else StoreUnavailable.
    """
    url = settings.database_url
    with postgres_errors():
        connection = await AsyncConnection.connect(url, **connect_options(url))
        await connection.close()


async def ping(pool: Pool, *, timeout_s: float = 2 * CHECKOUT_TIMEOUT_S) -> None:
    """Return when Postgres answers a statement. Raises StoreUnavailable."""
    await bounded(_ping(pool), timeout_s)


async def _ping(pool: Pool) -> None:
    async with transaction(pool, read_only=True) as connection:
        await connection.execute("SELECT 1")
