"""The parameters of a summary, strictly: what is not allowed is a 400 that names the parameter.

They are read from the query string as sent, not by FastAPI, which would take `+5`, ` 5`, `5.0` and
the digits of other scripts for integers, ignore unknown names, and pick one of two values.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple, cast
from urllib.parse import parse_qsl

from api.errors import ApiError, bad_request
from store.records import GROUPINGS, Grouping

DAYS_MAX: Final = 3_650
LIMIT_MAX: Final = 500
#: The largest integer that every JSON reader takes exactly.
OFFSET_MAX: Final = 2**53 - 1

WindowKind = Literal["period", "exact"]
WINDOWS: Final[tuple[WindowKind, ...]] = ("period", "exact")
NAMES: Final = ("groupBy", "days", "limit", "offset", "window")

_INTEGER: Final = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_DIGITS_MAX: Final = 18  # more digits are larger than any bound, and never parsed
_SHOWN_MAX: Final = 40


class Params(NamedTuple):
    """A valid set of parameters; `limit` is capped already."""

    group_by: Grouping = "action"
    days: int = 30
    limit: int = 100
    offset: int = 0
    window: WindowKind = "period"


def parse(query: bytes) -> Params:
    """The parameters in a raw query string. Raises ApiError 400."""
    try:
        pairs = parse_qsl(
            query.decode("latin-1"), keep_blank_values=True, max_num_fields=4 * len(NAMES)
        )
    except ValueError:
        raise bad_request(f"too many parameters; allowed are {', '.join(NAMES)}") from None
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in NAMES:
            raise bad_request(f"unknown parameter {_shown(name)}; allowed are {', '.join(NAMES)}")
        if name in given:
            raise bad_request(f"{name} is given more than once; give it once")
        given[name] = value
    default = Params()
    return Params(
        cast(Grouping, _choice(given, "groupBy", GROUPINGS, default.group_by)),
        _integer(given, "days", 1, DAYS_MAX, default.days),
        min(_integer(given, "limit", 1, None, default.limit), LIMIT_MAX),
        _integer(given, "offset", 0, OFFSET_MAX, default.offset),
        cast(WindowKind, _choice(given, "window", WINDOWS, default.window)),
    )


def _choice(given: dict[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = given.get(name, default)
    if value not in allowed:
        raise bad_request(f"{name} must be one of {', '.join(allowed)}; got {_shown(value)}")
    return value


def _integer(given: dict[str, str], name: str, least: int, most: int | None, default: int) -> int:
    """The value of `name`: plain ASCII digits, no sign, no space, no leading zero."""
    text = given.get(name)
    if text is None:
        return default
    if not _INTEGER.fullmatch(text):
        raise _out_of_range(name, least, most, text)
    value = int(text[: _DIGITS_MAX + 1])  # cut short it is still beyond every bound
    if value < least or (most is not None and value > most):
        raise _out_of_range(name, least, most, text)
    return value


def _out_of_range(name: str, least: int, most: int | None, text: str) -> ApiError:
    if most is not None:
        allowed = f"an integer from {least} to {most}"
    else:
        allowed = f"an integer of at least {least} (over {LIMIT_MAX} is taken as {LIMIT_MAX})"
    return bad_request(f"{name} must be {allowed}, in plain digits; got {_shown(text)}")


def _shown(text: str) -> str:
    """`text` quoted for a message: in ASCII, and not at any length."""
    return ascii(text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "...")
