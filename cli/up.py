"""`up`: everything on one machine."""

from __future__ import annotations

import os
import shlex
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from cli.console import CliError, load_settings, print_note, print_result, run_async

if TYPE_CHECKING:
    from cli.embedded.command import Command
    from cli.embedded.stack import Stack
    from store.settings import Settings

HOST: Final = "127.0.0.1"
READY_TIMEOUT_S: Final = 60.0
COUNTED_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.2
#: How long each may take to end: 15 s in all, unless something hangs.
STOP_S: Final = {"load": 3.0, "api": 9.0, "worker": 12.0}
STOP_SERVER_S: Final = 5.0


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM."""


class Children(NamedTuple):
    """In the order in which they are started; stopped the other way round."""

    worker: Command
    api: Command
    load: Command | None


def up(
    port: Annotated[
        int, typer.Option(help="Port of the API; 0 = a free one.", min=0, max=65535)
    ] = 8000,
    demo: Annotated[
        bool, typer.Option("--demo", help="Add a catalog, five weeks of events and live traffic.")
    ] = False,
    data_dir: Annotated[
        Path, typer.Option(help="Where data and logs are kept.", file_okay=False)
    ] = Path(".data"),
) -> None:
    """Starts everything on this machine: broker, Valkey, PostgreSQL, worker and API.

    For a laptop: no Docker, no password, loopback only. Ctrl-C stops all; starting again with the
    same data folder keeps the data.
    """
    from cli.embedded.server import free_port, is_free
    from cli.embedded.stack import Stack

    if port and not is_free(port):
        raise CliError(f"port {port} of {HOST} is in use; choose another with --port")
    stack = Stack(data_dir)
    with _stoppable():
        try:
            _run(stack, port or free_port(), demo)
        except _Stopped:
            print_note("stopped")


def _run(stack: Stack, port: int, demo: bool) -> None:
    started: list[Command] = []
    try:
        began_s = time.monotonic()
        stack.start(lambda server: print_note(f"{server.name} answers at {server.address}"))
        _use(stack, port)
        _migrate()
        _rebuild_inconsistent()
        children = _children(stack.data_dir, demo)
        for child in (children.worker, children.api):
            started.append(child)
            child.start()
        base = f"http://{HOST}:{port}"
        _wait(lambda: _is_ok(f"{base}/readyz"), started, stack, READY_TIMEOUT_S, "ready")
        if demo:
            _fill(children, stack)
        if children.load is not None:
            started.append(children.load)
            children.load.start()
        _greet(base, stack, time.monotonic() - began_s)
        while True:
            _look_after(started, stack)
            time.sleep(POLL_S)
    finally:
        _ignore_signals()
        for child in reversed(started):
            child.stop()
        stack.stop(STOP_SERVER_S)


def _use(stack: Stack, port: int) -> None:
    """Points us and our children to the stack; says where it is for others."""
    environment = {
        **stack.environment(),
        "REDIS_CLUSTER": "false",
        "AUTH_MODE": "open",
        "API_HOST": HOST,
        "API_PORT": str(port),
    }
    os.environ.update(environment)
    # After a crash of the worker its partitions wait this long for it. (A stable instance id would
    # not make them wait, but the embedded broker takes 3 s longer then, at each start.)
    os.environ.setdefault("KAFKA_SESSION_TIMEOUT_S", "10")
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()]
    (stack.data_dir / "env").write_text("".join(lines))


def _rebuild_inconsistent() -> None:
    """Rebuild the tenants whose counters and history differ after an unclean end.

    The embedded broker loses its topics when it ends, so the events that only one of the stores
    has cannot be read again. History decides.
    """
    from cli.rebuild import RebuildBar, failures
    from streams.rebuild import rebuild_inconsistent

    with failures(), RebuildBar() as bar:
        results = run_async(rebuild_inconsistent(load_settings(), progress=bar))
    for result in results:
        print_note(
            f"tenant {result.tenant}: counters rebuilt from history after an unclean end "
            f"({result.events} events)"
        )


def _migrate() -> None:
    from cli.migrate import migrate_all

    run_async(migrate_all(load_settings()))
    print_note("topics and tables are there")


def _children(folder: Path, demo: bool) -> Children:
    from cli.embedded.command import Command
    from cli.traffic.demo import TRAFFIC

    def child(name: str, *arguments: str) -> Command:
        return Command(name, arguments, os.environ, folder, stop_timeout_s=STOP_S[name])

    return Children(child("worker"), child("api"), child("load", *TRAFFIC) if demo else None)


def _fill(children: Children, stack: Stack) -> None:
    """The demo's catalog and its first five weeks, where they are not there already."""
    from cli.embedded.command import Command
    from cli.traffic.demo import BACKFILL, has_history, import_demo_catalog

    settings = load_settings()
    run_async(import_demo_catalog(settings))
    if run_async(has_history(settings)):
        print_note("the data folder has events already")
        return
    backfill = Command("load", BACKFILL, os.environ, stack.data_dir, stop_timeout_s=STOP_S["load"])
    try:
        backfill.start()
        if code := backfill.wait():
            raise CliError(backfill.describe_end(code))
    finally:
        backfill.stop()
    print_note("five weeks of events sent")
    supervised = [children.worker, children.api]
    _wait(lambda: _all_counted(settings), supervised, stack, COUNTED_TIMEOUT_S, "done counting")


def _all_counted(settings: Settings) -> bool:
    from cli.status_report import gather_status

    return run_async(gather_status(settings)).lag == 0


def _greet(base: str, stack: Stack, seconds: float) -> None:
    url = f"{base}/api/v1/interaction-summary?groupBy=action&days=7&limit=3"
    print_result(
        f"\nInteraction Summary is up, after {seconds:.0f} s.\n\n"
        f"  ask it       curl '{url}'\n"
        f"  read on      {base}/docs\n"
        f"  other commands, in another terminal\n"
        f"               . {shlex.quote(str(stack.data_dir / 'env'))}"
        f" && interaction-summary status\n"
        f"  data, logs   {stack.data_dir}\n"
        f"  stop         Ctrl-C; starting again keeps the data\n"
    )


# --- watching


def _wait(
    condition: Callable[[], bool],
    children: list[Command],
    stack: Stack,
    timeout_s: float,
    what: str,
) -> None:
    """Returns when `condition` holds. Raises CliError when it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        _look_after(children, stack)
        if time.monotonic() > deadline_s:
            raise CliError(f"not {what} within {timeout_s:g} s; see the logs in {stack.data_dir}")
        time.sleep(POLL_S)


def _look_after(children: list[Command], stack: Stack) -> None:
    for server in stack.dead():
        raise CliError(f"{server.name} ended by itself; see {server.log_path}")
    for child in children:
        child.keep_alive()


def _is_ok(url: str) -> bool:
    """Whether it answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own, http
            return True
    except OSError:
        return False


# --- being stopped


@contextmanager
def _stoppable() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM raise _Stopped, once: what cleans up is not disturbed."""

    def stop(_: int, __: FrameType | None) -> None:
        _ignore_signals()
        raise _Stopped

    before = {which: signal.signal(which, stop) for which in _SIGNALS}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _ignore_signals() -> None:
    for which in _SIGNALS:
        signal.signal(which, signal.SIG_IGN)
