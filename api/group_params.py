"""Parameters of the endpoints about one group, and about counts per day."""

from __future__ import annotations

from typing import Final, NamedTuple, cast
from urllib.parse import quote, unquote

from starlette.types import Scope

from api.params import DAYS, GROUP_BY, Choice, Id, Parameter, given_in
from store.records import Grouping

PATH_GROUP_BY: Final = GROUP_BY._replace(
    description="The dimension of the group.",
    default=None,
)
PATH_ID: Final = Id(
    "id", "Id of the group, percent-encoded: `/` as `%2F`. All of the path after `groupBy` is read."
)
#: In the order of the path.
PATH_PARAMETERS: Final[tuple[Parameter, ...]] = (PATH_GROUP_BY, PATH_ID)

TREND_GROUP_BY: Final = GROUP_BY._replace(
    description="The dimension of the group. Sums of `treatment` and `channel` are over the "
    "interactions that have one; those of `customer` are over all."
)
TREND_ID: Final = Id("id", "Id of the group; without it, the sum of all groups.")
TREND_DAYS: Final = DAYS._replace(
    description="Number of calendar days, today included. The counters have 31 days, with "
    "`compare` for twice 15; for more, history answers."
)
COMPARE: Final = Choice(
    "compare",
    "`previous`: also as many days before. Left out: none.",
    None,
    ("previous",),
)
#: In the order of the documentation, and in which their values are checked.
TREND_PARAMETERS: Final[tuple[Parameter, ...]] = (TREND_GROUP_BY, TREND_ID, TREND_DAYS, COMPARE)
_TREND_NAMES: Final = tuple(parameter.name for parameter in TREND_PARAMETERS)
#: Parts of the raw path before the id: empty, api, v1, interaction-summary, groupBy.
_PARTS_BEFORE_ID: Final = 5


class GroupParams(NamedTuple):
    """Valid values of the parameters of one group."""

    group_by: Grouping
    id: str


class TrendParams(NamedTuple):
    """Valid values of the parameters of a trend."""

    group_by: Grouping = cast(Grouping, TREND_GROUP_BY.default)
    id: str | None = None
    days: int = TREND_DAYS.default
    has_previous: bool = False

    @property
    def days_read(self) -> int:
        """Number of days that the answer has, those before included."""
        return 2 * self.days if self.has_previous else self.days


def parse_group(scope: Scope) -> GroupParams:
    """Return the parameters in a request's path. Raises ApiError 400.

    The raw path is read: the server has decoded `%2F` in the other one, and has replaced what is
    no UTF-8.
    """
    given_in(scope["query_string"], ())
    raw = scope.get("raw_path") or quote(scope["path"]).encode()
    parts = raw.decode("ascii", "surrogateescape").split("/", _PARTS_BEFORE_ID)
    # Fewer where a slash before the groupBy is encoded, too.
    parts += [""] * (_PARTS_BEFORE_ID + 1 - len(parts))
    group_by, id_ = (unquote(part, errors="surrogateescape") for part in parts[-2:])
    return GroupParams(
        cast(Grouping, PATH_GROUP_BY.parse({PATH_GROUP_BY.name: group_by})),
        cast(str, PATH_ID.parse({PATH_ID.name: id_})),
    )


def parse_trend(query: bytes) -> TrendParams:
    """Return the parameters of a raw query string. Raises ApiError 400."""
    given = given_in(query, _TREND_NAMES)
    return TrendParams(
        group_by=cast(Grouping, TREND_GROUP_BY.parse(given)),
        id=TREND_ID.parse(given),
        days=TREND_DAYS.parse(given),
        has_previous=COMPARE.parse(given) == "previous",
    )
