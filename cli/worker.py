"""`worker`: the stream processor."""

from __future__ import annotations

from cli.console import load_settings


def worker() -> None:
    """Counts events: from Kafka into Redis and Postgres.

    Run as many as the topic has partitions; they share the work. SIGTERM or Ctrl-C finishes the
    batch in hand and ends."""
    settings = load_settings()
    from streams.worker import run_worker

    run_worker(settings)
