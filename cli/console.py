"""What the commands share: where they print, how they fail, and the settings."""

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

FAILED = 1
BAD_USAGE = 2

#: Answers. Nothing else goes to standard output, so it can be piped; then tables need no terminal.
stdout = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
#: Progress, notes and errors.
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


class CliError(Exception):
    """A command cannot do what it was asked. The message is one line, for people."""


class UsageError(Exception):
    """A command was asked wrongly: exit code 2. The message names the option or variable and what
    is allowed."""


def print_note(message: str) -> None:
    """A line for people, beside the answer."""
    stderr.print(message, markup=False)


def print_result(text: str) -> None:
    """The command's answer, exactly."""
    stdout.print(text, markup=False, emoji=False)


def print_error(message: str) -> None:
    """The one line that says why a command failed."""
    line = message.strip().split("\n", 1)[0]
    stderr.print(f"[bold red]error:[/] {_escape(line)}")


def report_error(error: BaseException) -> int:
    """Prints one line for what ended a command; returns the exit code."""
    if os.environ.get("LOG_LEVEL") == "DEBUG" and not isinstance(error, UsageError | CliError):
        traceback.print_exception(error, file=sys.stderr)
    print_error(str(error) if _is_self_explanatory(error) and str(error) else describe_error(error))
    return BAD_USAGE if isinstance(error, UsageError) else FAILED


def _is_self_explanatory(error: BaseException) -> bool:
    # Ours do; of the others the type says half of it ("KeyError: 'a'").
    return type(error).__module__.partition(".")[0] in ("cli", "store", "streams", "api") or (
        isinstance(error, RuntimeError | ValueError | OSError)
    )


def describe_error(error: BaseException) -> str:
    """The type of a library's error and what it says."""
    name, text = type(error).__name__, str(error).strip()
    if not text or text.startswith(name):
        return text or name
    return f"{name}: {text}"


def load_settings() -> Settings:
    """The settings of the environment. Raises UsageError that names the variable and what it
    allows."""
    from pydantic import ValidationError

    from store.settings import Settings

    try:
        return Settings()
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
    """Runs a command's coroutine. SIGTERM cancels it, as Ctrl-C does, so that it can clean up; but
    a handler that is there already is left alone."""

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
    from rich.markup import escape

    return escape(text)
