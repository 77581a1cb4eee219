"""Query parameters of a summary: their description, and the parser that follows it.

`PARAMETERS` is the only place that names a parameter, its type, default, bounds and meaning. The
parser, the error texts, OpenAPI and the table in README.md all read it.

The query string is parsed here and not by FastAPI, which would accept `+5`, ` 5`, `5.0` and
non-ASCII digits as integers, ignore unknown names, and choose one of two values. A value that is
not allowed is a 400 that names the parameter and the allowed values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol, cast
from urllib.parse import parse_qsl

from api.errors import ApiError, bad_request
from store.records import GROUPINGS, Grouping
from store.shard_pages import SHARD_GROUPS_MAX

WindowKind = Literal["period", "exact"]
Sort = Literal["total", "impression", "click", "convert", "ctr", "cvr"]
SORTS: Final[tuple[Sort, ...]] = ("total", "impression", "click", "convert", "ctr", "cvr")

#: Maximum number of groups that are sorted by another field than `total`: all of them are read.
#: It is a page of less than 10 ms of a script, as large as what a shard is asked for.
SORTED_GROUPS_MAX: Final = SHARD_GROUPS_MAX
#: Maximum length of an id in events.
ID_CHARS_MAX: Final = 128
#: The largest signed 64-bit integer. The response repeats it; JSON readers that take numbers for
#: doubles are exact up to 2^53.
OFFSET_MAX: Final = 2**63 - 1

_INTEGER: Final = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f]")
#: Surrogates stand for bytes that are no UTF-8.
_ID: Final = re.compile(rf"[^\x00\ud800-\udfff]{{1,{ID_CHARS_MAX}}}")
#: A number with more digits is larger than every bound, so it is never converted as a whole.
_DIGITS_MAX: Final = 19
#: Characters of a refused value that an error message repeats.
_QUOTED_MAX: Final = 40


class Parameter(Protocol):
    """What all parameters have, for error messages, OpenAPI and the documentation."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def default(self) -> str | int | None: ...

    @property
    def rule(self) -> str: ...

    @property
    def schema(self) -> dict[str, Any]: ...


class Choice(NamedTuple):
    """Query parameter with a fixed set of values."""

    name: str
    description: str
    default: str | None
    """None: the parameter may be left out, and then has no value."""
    allowed: tuple[str, ...]

    @property
    def rule(self) -> str:
        """The allowed values, as error messages and the documentation state them."""
        return f"one of {', '.join(self.allowed)}"

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the parameter."""
        default = {} if self.default is None else {"default": self.default}
        return {"type": "string", "enum": list(self.allowed), **default}

    def parse(self, given: Mapping[str, str]) -> str | None:
        """Return the value in `given`, or the default. Raises ApiError 400."""
        value = given.get(self.name)
        if value is None:
            return self.default
        if value not in self.allowed:
            raise not_allowed(self, value)
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

    def parse(self, given: Mapping[str, str]) -> int:
        """Return the value in `given`, capped, or the default. Raises ApiError 400."""
        text = given.get(self.name)
        if text is None:
            return self.default
        if not _INTEGER.fullmatch(text):
            raise not_allowed(self, text)
        value = int(text[: _DIGITS_MAX + 1])  # 20 digits are still beyond every bound
        if value < self.minimum or (self.maximum is not None and value > self.maximum):
            raise not_allowed(self, text)
        return value if self.cap is None else min(value, self.cap)


class Id(NamedTuple):
    """Parameter with the id of a group, as events carry it."""

    name: str
    description: str
    default: None = None

    @property
    def rule(self) -> str:
        """The allowed values, as error messages and the documentation state them."""
        return f"1 to {ID_CHARS_MAX} characters of UTF-8, without NUL"

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the parameter."""
        return {
            "type": "string",
            "minLength": 1,
            "maxLength": ID_CHARS_MAX,
            "pattern": r"^[^\x00]*$",
        }

    def parse(self, given: Mapping[str, str]) -> str | None:
        """Return the value in `given`, or None. Raises ApiError 400."""
        text = given.get(self.name)
        if text is not None and not _ID.fullmatch(text):
            raise not_allowed(self, text)
        return text


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

SORT: Final = Choice(
    "sort",
    "The field that orders the rows, descending; equal values are ordered by id. Another one than "
    f"`total` needs all groups of the window, at most {SORTED_GROUPS_MAX}.",
    "total",
    SORTS,
)

#: In the order of the documentation, and in which their values are checked.
PARAMETERS: Final[tuple[Parameter, ...]] = (GROUP_BY, DAYS, LIMIT, OFFSET, WINDOW, SORT)
NAMES: Final = tuple(parameter.name for parameter in PARAMETERS)


class Params(NamedTuple):
    """Valid values of all parameters; `limit` is capped already."""

    group_by: Grouping = cast(Grouping, GROUP_BY.default)
    days: int = DAYS.default
    limit: int = LIMIT.default
    offset: int = OFFSET.default
    window: WindowKind = cast(WindowKind, WINDOW.default)
    sort: Sort = cast(Sort, SORT.default)


def parse(query: bytes) -> Params:
    """Return the parameters of a raw query string. Raises ApiError 400."""
    given = given_in(query, NAMES)
    return Params(
        group_by=cast(Grouping, GROUP_BY.parse(given)),
        days=DAYS.parse(given),
        limit=LIMIT.parse(given),
        offset=OFFSET.parse(given),
        window=cast(WindowKind, WINDOW.parse(given)),
        sort=cast(Sort, SORT.parse(given)),
    )


def given_in(query: bytes, names: Sequence[str]) -> Mapping[str, str]:
    """Return the values in a raw query string by name. Raises ApiError 400.

    A byte that is no UTF-8 becomes a surrogate, which no parameter allows.
    """
    allowed = f"allowed are {', '.join(names)}" if names else "none is allowed here"
    # Some clients send the bytes of UTF-8 as they are.
    encoded = _NOT_ASCII.sub(lambda byte: f"%{ord(byte[0]):02X}", query.decode("latin-1"))
    try:
        pairs = parse_qsl(
            encoded,
            keep_blank_values=True,
            errors="surrogateescape",
            max_num_fields=4 * max(len(names), 1),
        )
    except ValueError:
        raise bad_request(f"too many parameters; {allowed}") from None
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in names:
            raise bad_request(f"unknown parameter {_quoted(name)}; {allowed}")
        if name in given:
            raise bad_request(f"{name} is given more than once; give it once")
        given[name] = value
    return given


def not_allowed(parameter: Parameter, text: str) -> ApiError:
    """Return the refusal of a value."""
    return bad_request(f"{parameter.name} must be {parameter.rule}; got {_quoted(text)}")


def _quoted(text: str) -> str:
    """Return `text` quoted for a message: ASCII only, and at most 40 characters of it."""
    return ascii(text if len(text) <= _QUOTED_MAX else text[:_QUOTED_MAX] + "...")
