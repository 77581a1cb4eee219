"""Parts shared by the commands: output, error reports, settings and the event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

if TYPE_CHECKING:
    from store.settings import Settings

T = TypeVar("T")

SUCCESS = 0
FAILED = 1
BAD_USAGE = 2

#: Results only, so that standard output can be piped. A table in a pipe is 120 columns wide.
stdout = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
#: Progress, notes and errors.
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


class CliError(Exception):
    """A command failed: exit code 1. The message is one line, for people."""


class UsageError(Exception):
    """A command was called with invalid options or settings: exit code 2.

    The message names the option or variable and what is allowed.
    """


def print_note(message: str) -> None:
    """Print a line for people on standard error: progress and notes."""
    stderr.print(message, markup=False)


def print_result(text: str) -> None:
    """Print a result of the command on standard output, without markup."""
    stdout.print(text, markup=False, emoji=False)


def print_error(message: str) -> None:
    """Print the first line of `message` on standard error as an error."""
    line = message.strip().split("\n", 1)[0]
    stderr.print(f"[bold red]error:[/] {_escape(line)}")


def report_error(error: BaseException) -> int:
    """Print one line about the exception that ended a command; return the exit code."""
    if os.environ.get("LOG_LEVEL") == "DEBUG" and not isinstance(error, UsageError | CliError):
        traceback.print_exception(error, file=sys.stderr)
    print_error(str(error) if _is_self_explanatory(error) and str(error) else describe_error(error))
    return BAD_USAGE if isinstance(error, UsageError) else FAILED


def _is_self_explanatory(error: BaseException) -> bool:
    # Our own messages are complete; those of others need the type's name ("KeyError: 'a'").
    return type(error).__module__.partition(".")[0] in ("cli", "store", "streams", "api") or (
        isinstance(error, RuntimeError | ValueError | OSError)
    )


def describe_error(error: BaseException) -> str:
    """Return the type and the message of a library's exception."""
    name, text = type(error).__name__, str(error).strip()
    if not text or text.startswith(name):
        return text or name
    return f"{name}: {text}"


def load_settings() -> Settings:
    """Return the settings from the environment variables.

    Raises UsageError that names each invalid variable and what it allows.
    """
    from pydantic import ValidationError

    from store.secret_files import SecretFileError
    from store.settings import Settings

    try:
        return Settings()
    except SecretFileError as error:
        raise UsageError(str(error)) from None
    except ValidationError as error:
        raise UsageError("; ".join(_describe_validation_error(e) for e in error.errors())) from None


def _describe_validation_error(error: Any) -> str:
    from store.logs import SECRET_NAMES

    name = ".".join(str(part) for part in error["loc"]).upper()
    message = str(error["msg"]).removeprefix("Value error, ")
    if not name:
        return message
    shown = "…" if name.lower() in SECRET_NAMES else repr(error["input"])
    return f"{name}={shown}: {message}"


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine of a command and return its result.

    SIGTERM cancels it, as Ctrl-C does, so that it can clean up. A handler that is already
    installed for SIGTERM stays.
    """

    async def main() -> T:
        task = asyncio.ensure_future(work)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await task

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise SystemExit(128 + signal.SIGTERM) from None


def _escape(text: str) -> str:
    from rich.markup import escape  # imported late: it is needed only to report an error

    return escape(text)
