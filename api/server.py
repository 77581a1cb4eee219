"""HTTP server of the application: one process, or several that share one socket."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from contextlib import suppress
from multiprocessing import parent_process
from threading import Thread
from typing import Final

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from api.access import StartupRefused, check_startup
from api.app import build
from api.protocol import LimitedHttpProtocol
from store import logs
from store.metrics import forget_ended_processes
from store.settings import Settings

#: Time for running requests after SIGTERM; with closing the stores that is less than 10 s.
DRAIN_TIMEOUT_S: Final = 7
#: Idle connections stay open longer than the polling interval of a dashboard.
KEEP_ALIVE_S: Final = 30
#: How long a process may not answer the supervisor before it is replaced. One that is starting on a
#: busy machine answers after more than uvicorn's 5 s; replaced then, it would never start.
PROCESS_SILENT_MAX_S: Final = 30
BACKLOG: Final = 2_048
NOT_STARTED: Final = "the API did not start; the log has the reason"


def serve(settings: Settings, host: str, port: int, workers: int) -> None:
    """Serve until SIGTERM or SIGINT, then finish the running requests and return.

    With more than one of `workers`, each is a process that reads its settings from the environment.
    Raises StartupRefused if the settings or the address do not allow it, and TracesRefused if
    traces are enabled and cannot be sent.
    """
    settings = settings.model_copy(update={"api_host": host, "api_port": port})
    check_startup(settings, host)
    if settings.traces_enabled:
        from store.tracing import check_traces

        check_traces()
    logs.configure(settings.log_level)
    with _bind(host, port) as listener:
        if workers == 1:
            _serve_here(settings, listener)
        else:
            _serve_in_processes(settings, listener, workers)


def app_of_environment() -> FastAPI:
    """Return the application of a worker process."""
    Thread(target=_end_with_parent, name="parent", daemon=True).start()
    settings = Settings()
    logs.configure(settings.log_level)
    return build(settings)


def _serve_here(settings: Settings, listener: socket.socket) -> None:
    server = uvicorn.Server(_config(lambda: build(settings), workers=1))
    # After an orderly stop uvicorn raises the signal that stopped it again: ignore that one.
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, previous)
    if not server.started:
        raise StartupRefused(NOT_STARTED)


def _serve_in_processes(settings: Settings, listener: socket.socket, workers: int) -> None:
    with tempfile.TemporaryDirectory(prefix="interaction-summary-metrics-") as shared:
        # Inherited by the processes: their metrics are files there, and /metrics adds them up.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = shared
        os.environ["API_HOST"] = settings.api_host  # may come from the command line
        try:
            config = _config("api.server:app_of_environment", workers=workers)
            supervisor = _Supervisor(config, sockets=[listener])
            supervisor.run()
        finally:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        raise StartupRefused(NOT_STARTED)


class _Supervisor(Multiprocess):
    """uvicorn's supervisor, which also forgets the gauges of processes that have ended."""

    def keep_subprocess_alive(self) -> None:
        """Start processes in place of those that have ended; called twice a second."""
        super().keep_subprocess_alive()
        forget_ended_processes([process.pid for process in self.processes if process.pid])


def _end_with_parent() -> None:
    """Stop this process when its parent ends.

    A parent that was killed cannot stop its processes, and they would keep the address in use.
    """
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _config(app: object, workers: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        factory=True,
        workers=workers,
        loop="uvloop",
        http=LimitedHttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,  # logging is configured already
        access_log=False,  # the middleware logs each request
        server_header=False,
        proxy_headers=False,  # no code depends on the address of the client
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_TIMEOUT_S,
        timeout_worker_healthcheck=PROCESS_SILENT_MAX_S,
    )


def _bind(host: str, port: int) -> socket.socket:
    """Return a listening socket on the first address that `host` resolves to."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        raise StartupRefused(f"cannot listen on {host}:{port}: {error}") from error
