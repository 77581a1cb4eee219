"""Connection for requests about topics: their settings, ids and creation."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from store.settings import Settings
from streams.kafka.connection import check_access, kafka_python_options

TIMEOUT_MS: Final = 10_000


@contextmanager
def open_admin(settings: Settings, client_id: str) -> Iterator[Any]:
    """Yield a KafkaAdminClient. It blocks, and raises kafka-python's errors and AssertionError.

    Raises AccessRefused if no broker can be used because of TLS or authentication. Not for a thread
    with an event loop.
    """
    try:
        admin = KafkaAdminClient(
            **kafka_python_options(settings),
            client_id=client_id,
            request_timeout_ms=TIMEOUT_MS,
            bootstrap_timeout_ms=TIMEOUT_MS,
        )
    except KafkaError:  # it does not say why
        asyncio.run(check_access(settings))
        raise
    try:
        yield admin
    finally:
        admin.close()
