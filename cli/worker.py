"""`worker`: the stream processor."""

from __future__ import annotations

import signal
import sys

from cli.console import load_settings


def worker() -> None:
    """Counts events: from Kafka into Redis and Postgres.

    Run as many as the topic has partitions; they share the work. SIGTERM or Ctrl-C finishes the
    batch in hand and ends."""
    # Until the worker has handlers of its own: what has not begun can end at once, and well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = load_settings()
    from streams.worker import run_worker

    run_worker(settings)
