"""The command `worker`: runs the stream processor."""

from __future__ import annotations

import signal
import sys

from cli.console import load_settings


def worker() -> None:
    """Count the events of the Kafka topic into Redis and Postgres.

    Up to one worker per partition shares the work. On SIGTERM or Ctrl-C a worker finishes the
    batches in progress and exits.
    """
    # Until the worker installs its own handlers: nothing has begun, so it can exit at once with 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = load_settings()
    from streams.worker import run_worker

    run_worker(settings)
