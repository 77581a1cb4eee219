"""Connection for requests about topics: their settings, ids and creation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from kafka.admin import KafkaAdminClient

from store.settings import Settings

TIMEOUT_MS: Final = 10_000


@contextmanager
def open_admin(settings: Settings, client_id: str) -> Iterator[Any]:
    """Yield a KafkaAdminClient. It blocks, and raises kafka-python's errors and AssertionError."""
    admin = KafkaAdminClient(
        bootstrap_servers=settings.brokers,
        client_id=client_id,
        request_timeout_ms=TIMEOUT_MS,
        bootstrap_timeout_ms=TIMEOUT_MS,
    )
    try:
        yield admin
    finally:
        admin.close()
