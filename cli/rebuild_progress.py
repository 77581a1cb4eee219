"""Progress of a rebuild on standard error: a bar in a terminal, JSON lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, Self

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from cli.console import stderr

if TYPE_CHECKING:
    from streams.rebuild.progress import Progress

#: Time between two JSON lines of one phase.
LINE_EVERY_S: Final = 1.0


class RebuildProgress:
    """Shows the progress of one tenant at a time; a call is the `report` of `streams.rebuild`."""

    def __init__(self) -> None:
        self._bar = ProgressBar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=stderr,
            transient=True,
        )
        self._shown: tuple[str, str] | None = None  # tenant and phase
        self._task = self._bar.add_task("", rate="")
        self._line_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hide()

    def __call__(self, progress: Progress) -> None:
        if stderr.is_terminal:
            self._show(progress)
        else:
            self._print(progress)

    def _show(self, progress: Progress) -> None:
        shown = progress.tenant, progress.phase
        if shown != self._shown:
            self._bar.reset(
                self._task,
                description=f"tenant {progress.tenant}: {progress.phase}",
                total=progress.total,
                rate="",
            )
            if self._shown is None:
                self._bar.start()
            self._shown = shown
        lag = "" if progress.lag is None else f", lag {progress.lag:,}"
        self._bar.update(
            self._task, completed=progress.done, rate=f"{progress.events_per_s:,.0f}/s{lag}"
        )

    def _print(self, progress: Progress) -> None:
        shown = progress.tenant, progress.phase
        now_s = time.monotonic()
        if shown == self._shown and now_s - self._line_s < LINE_EVERY_S:
            return
        import msgspec

        self._shown, self._line_s = shown, now_s
        sys.stderr.write(msgspec.json.encode(progress).decode() + "\n")

    def hide(self) -> None:
        """Remove the bar: Rich sends standard output through the console of a bar that is shown."""
        if self._shown is not None:
            self._shown = None
            if stderr.is_terminal:  # elsewhere the bar never started, and would print an empty line
                self._bar.stop()
