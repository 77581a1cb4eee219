"""The reader as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from cli.embedded.server import free_port
from tests.support.waiting import eventually

SERVE = (
    "import os, sys; from api import protocol; from api.server import serve; "
    "from store.settings import Settings; "
    "protocol.HEAD_TIMEOUT_S = float(os.environ.get('TEST_HEAD_TIMEOUT_S', '10')); "
    "serve(Settings(), sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"
)


@contextmanager
def serving(
    log: Path, environment: dict[str, str], *, workers: int = 1
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    port = free_port()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "127.0.0.1", str(port), str(workers)],
            env={**os.environ, "AUTH_MODE": "open", **environment},
            stderr=stream,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:

            def answers() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    return client.get("/healthz").status_code == 200
                except httpx.TransportError:
                    return False

            eventually(answers, message="the API answers")
            yield process, client
    finally:
        process.kill()
        process.wait()
