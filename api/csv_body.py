"""Rows as CSV (RFC 4180): a header line, lines that end in CR LF, UTF-8. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from store.summary import Row

_TO_QUOTE: Final = re.compile(r'[",\r\n]')
#: Spreadsheets take a text that begins with one of these for a formula, or drop the first character
#: and then do. An apostrophe before it makes it a text; one that is there already gets another, so
#: that a program has the text again if it removes one apostrophe.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def encode_csv(fields: Sequence[str], rows: Iterable[Row]) -> bytes:
    """Return the body: the names of `fields`, then the values of each row in their order."""
    lines = [",".join(fields), *(",".join(_cell(row[name]) for name in fields) for row in rows)]
    return "".join(f"{line}\r\n" for line in lines).encode()


def _cell(value: object) -> str:
    """Return a value as a cell: null is empty, an empty text is two quotes."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value)
    text = f"'{value}" if value.startswith(_FORMULA) else value
    if not text or _TO_QUOTE.search(text):
        return '"' + text.replace('"', '""') + '"'
    return text
