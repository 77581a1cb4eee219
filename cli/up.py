"""The command `up`: runs the whole system on one machine."""

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
#: Stop timeout of each command. All together end within 15 s unless one hangs.
STOP_S: Final = {"load": 3.0, "api": 9.0, "worker": 12.0}
STOP_SERVER_S: Final = 5.0
#: Settings for other servers that the shell may have. With them our commands would not start, or
#: would send the password of another broker to ours.
UNSET: Final = (
    *("DATABASE_URL_FILE", "REDIS_URL_FILE", "KAFKA_SECURITY_PROTOCOL", "KAFKA_SASL_MECHANISM"),
    *("KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD", "KAFKA_SASL_PASSWORD_FILE"),
    *("KAFKA_SSL_CA_FILE", "KAFKA_SSL_CERTIFICATE_FILE", "KAFKA_SSL_KEY_FILE"),
)


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM."""


class Commands(NamedTuple):
    """The commands that `up` supervises, in start order; they are stopped in reverse order."""

    worker: Command
    api: Command
    load: Command | None


def up(
    port: Annotated[
        int, typer.Option(help="Port of the API; 0 = any free port.", min=0, max=65535)
    ] = 8000,
    demo: Annotated[
        bool, typer.Option("--demo", help="Add a catalog, five weeks of events and live traffic.")
    ] = False,
    data_dir: Annotated[
        Path, typer.Option(help="Folder for data and logs.", file_okay=False, readable=False)
    ] = Path(".data"),
) -> None:
    """Start everything on this machine: broker, Valkey, PostgreSQL, worker and API.

    For a laptop: no Docker, no passwords. Other users of this machine have no access to Valkey,
    PostgreSQL and the data folder; they have to the API and the broker, on the loopback interface.
    Ctrl-C stops everything; the next start with the same data folder keeps the data.
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
        _export_environment(stack, port)
        _migrate()
        _rebuild_inconsistent()
        commands = _commands(stack.data_dir, demo)
        for command in (commands.worker, commands.api):
            started.append(command)
            command.start()
        base = f"http://{HOST}:{port}"
        _wait(
            lambda: _is_ok(f"{base}/readyz"),
            started,
            stack,
            timeout_s=READY_TIMEOUT_S,
            what="ready",
        )
        if demo:
            _send_demo_history(commands, stack)
        if commands.load is not None:
            started.append(commands.load)
            commands.load.start()
        _print_welcome(base, stack, time.monotonic() - began_s)
        while True:
            _supervise(started, stack)
            time.sleep(POLL_S)
    finally:
        _ignore_signals()
        for command in reversed(started):
            command.stop()
        stack.stop(STOP_SERVER_S)


def _export_environment(stack: Stack, port: int) -> None:
    """Set the environment of this process and its children to the stack, and write `env`.

    Other terminals read the file `env` of the data folder to use the same stack.
    """
    from cli.embedded.private_folder import write_private

    environment = {
        **stack.environment(),
        "REDIS_CLUSTER": "false",
        "AUTH_MODE": "open",
        "API_HOST": HOST,
        "API_PORT": str(port),
    }
    for name in UNSET:
        os.environ.pop(name, None)
    os.environ.update(environment)
    # After a crash of the worker its partitions are idle for this long. (A static instance id would
    # avoid that, but then each start takes 3 s longer with the embedded broker.)
    os.environ.setdefault("KAFKA_SESSION_TIMEOUT_S", "10")
    lines = [f"unset {' '.join(UNSET)}\n"]
    lines += [f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()]
    write_private(stack.data_dir / "env", "".join(lines))


def _rebuild_inconsistent() -> None:
    """Rebuild the tenants whose counters and history differ after an unclean end.

    The embedded broker loses its topics when it ends, so the events that only one of the stores
    has cannot be read again. History decides.
    """
    from cli.rebuild import failures
    from cli.rebuild_progress import RebuildProgress
    from streams.rebuild import Failure, rebuild_inconsistent

    with failures(), RebuildProgress() as progress:
        outcomes = run_async(rebuild_inconsistent(load_settings(), report=progress))
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise CliError(outcome.reason)
        print_note(
            f"tenant {outcome.tenant}: counters rebuilt from history after an unclean end "
            f"({outcome.events} events)"
        )


def _migrate() -> None:
    from cli.migrate import migrate_all

    run_async(migrate_all(load_settings()))
    print_note("topics and tables are ready")


def _commands(folder: Path, demo: bool) -> Commands:
    from cli.embedded.command import Command
    from cli.traffic.demo import TRAFFIC

    def command(name: str, *arguments: str) -> Command:
        return Command(name, arguments, os.environ, folder, stop_timeout_s=STOP_S[name])

    load = command("load", *TRAFFIC) if demo else None
    return Commands(command("worker"), command("api"), load)


def _send_demo_history(commands: Commands, stack: Stack) -> None:
    """Import the demo catalog; send its five weeks of events unless history has events."""
    from cli.embedded.command import Command
    from cli.traffic.demo import BACKFILL, has_history, import_demo_catalog

    settings = load_settings()
    run_async(import_demo_catalog(settings))
    if run_async(has_history(settings)):
        print_note("the data folder already has events")
        return
    backfill = Command("load", BACKFILL, os.environ, stack.data_dir, stop_timeout_s=STOP_S["load"])
    try:
        backfill.start()
        if code := backfill.wait():
            raise CliError(backfill.describe_end(code))
    finally:
        backfill.stop()
    print_note("five weeks of events sent")
    supervised = [commands.worker, commands.api]
    _wait(
        lambda: _all_counted(settings),
        supervised,
        stack,
        timeout_s=COUNTED_TIMEOUT_S,
        what="all events counted",
    )


def _all_counted(settings: Settings) -> bool:
    from cli.status_report import lag_of
    from store.records import StoreUnavailable

    try:
        return run_async(lag_of(settings)) == 0
    except StoreUnavailable:
        return False


def _print_welcome(base: str, stack: Stack, seconds: float) -> None:
    url = f"{base}/api/v1/interaction-summary?groupBy=action&days=7&limit=3"
    print_result(
        f"\nInteraction Summary is up, after {seconds:.0f} s.\n\n"
        f"  page         {base}/\n"
        f"  query        curl '{url}'\n"
        f"  API docs     {base}/docs\n"
        f"  other commands, in another terminal\n"
        f"               . {shlex.quote(str(stack.data_dir / 'env'))}"
        f" && interaction-summary status\n"
        f"  data, logs   {stack.data_dir}\n"
        f"  stop         Ctrl-C; the next start keeps the data\n"
    )


# --- supervision


def _wait(
    condition: Callable[[], bool],
    commands: list[Command],
    stack: Stack,
    *,
    timeout_s: float,
    what: str,
) -> None:
    """Supervise until `condition` holds. Raises CliError if it does not within `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        _supervise(commands, stack)
        if time.monotonic() > deadline_s:
            raise CliError(f"not {what} within {timeout_s:g} s; see the logs in {stack.data_dir}")
        time.sleep(POLL_S)


def _supervise(commands: list[Command], stack: Stack) -> None:
    """Restart commands that have ended. Raises CliError if a server has ended."""
    for server in stack.dead():
        raise CliError(f"{server.name} ended unexpectedly; see {server.log_path}")
    for command in commands:
        command.keep_alive()


def _is_ok(url: str) -> bool:
    """Return whether a GET of `url` is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own server
            return True
    except OSError:
        return False


# --- signals


@contextmanager
def _stoppable() -> Iterator[None]:
    """Make Ctrl-C, SIGTERM and SIGHUP raise _Stopped inside the block.

    Only the first signal does; later ones are ignored, so that they do not disturb the cleanup.
    """

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
