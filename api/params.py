"""Query parameters of a summary: their description, and the parser that follows it.

`PARAMETERS` is the only place that names a parameter, its type, default, bounds and meaning. The
parser, the error texts, OpenAPI and the table in README.md all read it.

The query string is parsed here and not by FastAPI, which would accept `+5`, ` 5`, `5.0` and
non-ASCII digits as integers, ignore unknown names, and choose one of two values. A value that is
not allowed is a 400 that names the parameter and the allowed values.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, NamedTuple, cast
from urllib.parse import parse_qsl

from api.errors import ApiError, bad_request
from store.records import GROUPINGS, Grouping

WindowKind = Literal["period", "exact"]

#: The largest signed 64-bit integer. The response repeats it; JSON readers that take numbers for
#: doubles are exact up to 2^53.
OFFSET_MAX: Final = 2**63 - 1

_INTEGER: Final = re.compile(r"0|[1-9][0-9]*", re.ASCII)
#: A number with more digits is larger than every bound, so it is never converted as a whole.
_DIGITS_MAX: Final = 19
#: Characters of a refused value that an error message repeats.
_QUOTED_MAX: Final = 40


class Choice(NamedTuple):
    """Query parameter with a fixed set of values."""

    name: str
    description: str
    default: str
    allowed: tuple[str, ...]

    @property
    def rule(self) -> str:
        """The allowed values, as error messages and the documentation state them."""
        return f"one of {', '.join(self.allowed)}"

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the parameter."""
        return {"type": "string", "enum": list(self.allowed), "default": self.default}

    def parse(self, given: dict[str, str]) -> str:
        """Return the value in `given`, or the default. Raises ApiError 400."""
        value = given.get(self.name, self.default)
        if value not in self.allowed:
            raise _not_allowed(self, value)
        return value


class Integer(NamedTuple):
    """Query parameter with an integer value: ASCII digits without sign, space or leading zero."""

    name: str
    description: str
    default: int
    minimum: int
    maximum: int | None = None
    """A larger value is refused."""
    cap: int | None = None
    """A larger value is accepted and replaced by this one."""

    @property
    def rule(self) -> str:
        """The allowed values, as error messages and the documentation state them."""
        if self.maximum is not None:
            text = f"an integer from {self.minimum} to {self.maximum}"
        else:
            text = f"an integer of at least {self.minimum}"
        if self.cap is not None:
            text += f" (over {self.cap} is taken as {self.cap})"
        return f"{text}, in plain digits"

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the parameter. A cap is no bound: larger values are accepted."""
        schema: dict[str, Any] = {"type": "integer", "minimum": self.minimum}
        if self.maximum is not None:
            schema["maximum"] = self.maximum
        return {**schema, "default": self.default}

    def parse(self, given: dict[str, str]) -> int:
        """Return the value in `given`, capped, or the default. Raises ApiError 400."""
        text = given.get(self.name)
        if text is None:
            return self.default
        if not _INTEGER.fullmatch(text):
            raise _not_allowed(self, text)
        value = int(text[: _DIGITS_MAX + 1])  # 20 digits are still beyond every bound
        if value < self.minimum or (self.maximum is not None and value > self.maximum):
            raise _not_allowed(self, text)
        return value if self.cap is None else min(value, self.cap)


GROUP_BY: Final = Choice("groupBy", "The dimension that a row stands for.", "action", GROUPINGS)
DAYS: Final = Integer(
    "days",
    "Days to look back, today included. The smallest period that covers them is used: daily for 1, "
    "weekly up to 7, monthly up to 31, alltime for more.",
    default=30,
    minimum=1,
    maximum=3_650,
)
LIMIT: Final = Integer(
    "limit",
    "Maximum number of rows. The response repeats the value that was used.",
    default=100,
    minimum=1,
    cap=500,
)
OFFSET: Final = Integer(
    "offset",
    "Number of rows to skip.",
    default=0,
    minimum=0,
    maximum=OFFSET_MAX,
)
WINDOW: Final = Choice(
    "window",
    "`period`: the window of the period; `exact`: exactly `days` calendar days.",
    "period",
    ("period", "exact"),
)

#: In the order of the documentation, and in which their values are checked.
PARAMETERS: Final[tuple[Choice | Integer, ...]] = (GROUP_BY, DAYS, LIMIT, OFFSET, WINDOW)
NAMES: Final = tuple(parameter.name for parameter in PARAMETERS)


class Params(NamedTuple):
    """Valid values of all parameters; `limit` is capped already."""

    group_by: Grouping = cast(Grouping, GROUP_BY.default)
    days: int = DAYS.default
    limit: int = LIMIT.default
    offset: int = OFFSET.default
    window: WindowKind = cast(WindowKind, WINDOW.default)


def parse(query: bytes) -> Params:
    """Return the parameters of a raw query string. Raises ApiError 400."""
    try:
        pairs = parse_qsl(
            query.decode("latin-1"), keep_blank_values=True, max_num_fields=4 * len(NAMES)
        )
    except ValueError:
        raise bad_request(f"too many parameters; allowed are {', '.join(NAMES)}") from None
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in NAMES:
            raise bad_request(f"unknown parameter {_quoted(name)}; allowed are {', '.join(NAMES)}")
        if name in given:
            raise bad_request(f"{name} is given more than once; give it once")
        given[name] = value
    return Params(
        group_by=cast(Grouping, GROUP_BY.parse(given)),
        days=DAYS.parse(given),
        limit=LIMIT.parse(given),
        offset=OFFSET.parse(given),
        window=cast(WindowKind, WINDOW.parse(given)),
    )


def _not_allowed(parameter: Choice | Integer, text: str) -> ApiError:
    return bad_request(f"{parameter.name} must be {parameter.rule}; got {_quoted(text)}")


def _quoted(text: str) -> str:
    """Return `text` quoted for a message: ASCII only, and at most 40 characters of it."""
    return ascii(text if len(text) <= _QUOTED_MAX else text[:_QUOTED_MAX] + "...")
