"""Health check of a PostgreSQL server, for processes without an event loop."""

from __future__ import annotations

import psycopg


def answers(database_url: str, *, timeout_s: int = 2) -> bool:
    """Return whether the server accepts a connection within `timeout_s` and answers a statement."""
    try:
        with psycopg.connect(database_url, connect_timeout=timeout_s) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False
