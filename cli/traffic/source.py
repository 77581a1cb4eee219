"""Sources of the records that `load` sends: the generator, or the lines of a file."""

from __future__ import annotations

import gzip
import itertools
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final

from cli.console import CliError
from cli.traffic.recorded import instant_of, key_of, shifted
from cli.traffic.synthetic import Traffic
from store.windows import DAY_MS

#: Key and value.
Record = tuple[bytes | None, bytes]

LINE_BYTES_MAX: Final = 16 * 1_048_576


def synthetic_records(
    traffic: Traffic, *, events: int | None, days: float, now_ms: Callable[[], int]
) -> Iterator[Record]:
    """Yield `events` records (None = no limit) whose event time is when they are requested.

    With `days`, the event times are spread evenly over that many days up to now.
    """
    end_ms = now_ms()
    for i in itertools.count() if events is None else range(events):
        if days and events is not None:
            yield traffic.record(end_ms - int(days * DAY_MS * (events - 1 - i) / events))
        else:
            yield traffic.record(now_ms())


def recorded_records(
    source: IO[bytes], *, events: int | None, shift_to_ms: int | None
) -> Iterator[Record]:
    """Yield the first `events` lines of `source` (None = all of them) as records.

    With `shift_to_ms`, for which `source` must be seekable, all times are shifted by the same
    amount, so that the latest of these lines has that time. Raises CliError.
    """
    delta_ms = 0
    if shift_to_ms is not None:
        instants = (instant_of(line) for line in itertools.islice(read_lines(source), events))
        latest_ms = max((ms for ms in instants if ms is not None), default=None)
        if latest_ms is None:
            raise CliError("--shift-to-now: no event has a time")
        delta_ms = shift_to_ms - latest_ms
        source.seek(0)
    for line in itertools.islice(read_lines(source), events):
        yield key_of(line), shifted(line, delta_ms) if delta_ms else line


def read_lines(source: IO[bytes]) -> Iterator[bytes]:
    """Yield the non-empty lines, stripped. Raises CliError."""
    try:
        for number in itertools.count(1):
            line = source.readline(LINE_BYTES_MAX + 1)
            if not line:
                return
            if len(line) > LINE_BYTES_MAX:
                raise CliError(f"line {number} is longer than {LINE_BYTES_MAX} bytes")
            if line := line.strip():
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise CliError(f"reading events: {error}") from None


@contextmanager
def open_source(file: Path, *, seekable: bool) -> Iterator[IO[bytes]]:
    """Open `file` for reading and decompress it if it is gzipped; `-` is standard input.

    If the source must be `seekable` and standard input is not, it is first copied to a temporary
    file. Raises CliError.
    """
    with ExitStack() as stack:
        try:
            raw: Any = sys.stdin.buffer if str(file) == "-" else file.open("rb")
            stack.enter_context(raw)
            if seekable and not raw.seekable():
                spool = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(raw, spool)
                spool.seek(0)
                raw = spool
            gzipped = raw.peek(2)[:2] == b"\x1f\x8b"
        except OSError as error:
            raise CliError(f"{file}: {error.strerror}") from None
        decompressed: Any = gzip.GzipFile(fileobj=raw) if gzipped else raw
        yield decompressed
