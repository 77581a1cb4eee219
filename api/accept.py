"""Choice between the representations of a list by the header Accept. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

Representation = Literal["application/json", "text/csv"]
#: In the order of preference where a client prefers none.
REPRESENTATIONS: Final[tuple[Representation, ...]] = ("application/json", "text/csv")

_RANGE: Final = re.compile(r"\s*([^\s/;,]+)/([^\s/;,]+)\s*((?:;[^,]*)?)")
_Q: Final = re.compile(r";\s*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*(?:;|$)", re.IGNORECASE)
_ANY_Q: Final = re.compile(r";\s*q=", re.IGNORECASE)


def preferred(accept: Sequence[str]) -> Representation:
    """Return the representation that a client prefers, given the values of its headers Accept.

    The most specific range that names a representation decides its quality (RFC 9110, 12.5.1). Of
    two with the same quality the one that is named more specifically is taken, then JSON. It is
    also the answer if neither is accepted. Ranges that are malformed are ignored.
    """
    ranges = [found for part in ",".join(accept).split(",") if (found := _parsed(part))]
    return max(REPRESENTATIONS, key=lambda name: _quality(name, ranges))


def _parsed(part: str) -> tuple[str, str, float] | None:
    """Return type, subtype and quality of a media range, or None if it is malformed."""
    found = _RANGE.fullmatch(part)
    if found is None:
        return None
    quality = _Q.search(found[3])
    if quality is None and _ANY_Q.search(found[3]):
        return None
    return found[1].lower(), found[2].lower(), float(quality[1]) if quality else 1.0


def _quality(name: Representation, ranges: Sequence[tuple[str, str, float]]) -> tuple[float, int]:
    """Return quality and specificity: 2 = named, 1 = by its type, 0 = by `*/*`, or not at all."""
    kind, subtype = name.split("/")
    for specificity, wanted in ((2, (kind, subtype)), (1, (kind, "*")), (0, ("*", "*"))):
        qualities = [quality for *range_, quality in ranges if tuple(range_) == wanted]
        if qualities:
            return max(qualities), specificity if max(qualities) else 0
    return 0.0, 0
