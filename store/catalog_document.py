"""The catalog document that `catalog import` reads and `catalog export` writes. Pure.

Strict: a value of the wrong type, an unknown field (a misspelt `isue` would otherwise clear
`issue`) and a repeated id are errors. The message says where, and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from store.json_integers import decode_json
from store.records import (
    DEFAULT_TENANT,
    SYSTEM_OUTCOME_TYPES,
    TENANT_PATTERN,
    Channel,
    Creative,
    Offer,
    OutcomeType,
)
from store.windows import is_zone

OUTCOME_TYPES_MAX: Final = 1_000
"""Maximum outcome types of a document. The maximum of a tenant is a setting."""
ITEMS_MAX: Final = 200_000
"""Maximum items of one part of a document."""

_NO_NUL: Final = r"\A[^\x00]*\Z"  # PostgreSQL's text type cannot hold NUL

Id = Annotated[str, Meta(min_length=1, max_length=128, pattern=_NO_NUL)]
Text = Annotated[str, Meta(max_length=1_000, pattern=_NO_NUL)]
Integer = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Zone = Annotated[
    str,
    Meta(
        description="IANA time zone name, such as Europe/Berlin.",
        extra_json_schema={"format": "iana-time-zone"},
    ),
]


class CatalogError(ValueError):
    """The document is invalid. The message says where, and what is allowed."""


class _Item(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    pass


class OfferItem(_Item, frozen=True):
    id: Id
    name: Text | None = None
    issue: Text | None = None
    group: Text | None = None
    status: Text | None = None
    priority: Integer | None = None


class TreatmentItem(_Item, frozen=True):
    id: Id
    name: Text | None = None
    offer_id: Id | None = None
    channel_id: Id | None = None
    template_type: Text | None = None
    ab_test_variant: Text | None = None
    weight: float | None = None
    status: Text | None = None


class ChannelItem(_Item, frozen=True):
    id: Id
    name: Text | None = None
    channel_type: Text | None = None
    status: Text | None = None


class OutcomeTypeItem(_Item, frozen=True):
    key: Id
    classification: Literal["positive", "negative", "neutral"]
    name: Text | None = None
    """Default: the key."""
    category: Text = "response"


Offers = Annotated[list[OfferItem], Meta(max_length=ITEMS_MAX)]
Treatments = Annotated[list[TreatmentItem], Meta(max_length=ITEMS_MAX)]
Channels = Annotated[list[ChannelItem], Meta(max_length=ITEMS_MAX)]
OutcomeTypes = Annotated[list[OutcomeTypeItem], Meta(max_length=OUTCOME_TYPES_MAX)]


class CatalogDocument(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A tenant's catalog or some parts of it; parts that are UNSET stay unchanged."""

    tenant: Annotated[str, Meta(pattern=rf"\A{TENANT_PATTERN}\Z")] = DEFAULT_TENANT
    timezone: Zone | UnsetType = UNSET
    offers: Offers | UnsetType = UNSET
    treatments: Treatments | UnsetType = UNSET
    channels: Channels | UnsetType = UNSET
    outcome_types: OutcomeTypes | UnsetType = UNSET

    def offer_records(self) -> dict[str, Offer]:
        """Return the offers by id."""
        return {i.id: Offer(**msgspec.structs.asdict(i)) for i in self.offers or ()}

    def creative_records(self) -> dict[str, Creative]:
        """Return the treatments by id."""
        return {i.id: Creative(**msgspec.structs.asdict(i)) for i in self.treatments or ()}

    def channel_records(self) -> dict[str, Channel]:
        """Return the channels by id."""
        return {i.id: Channel(**msgspec.structs.asdict(i)) for i in self.channels or ()}

    def outcome_type_records(self) -> dict[str, OutcomeType]:
        """Return the outcome types by key; a type without a name has its key as name."""
        return {
            i.key: OutcomeType(
                i.key, i.key if i.name is None else i.name, i.classification, i.category
            )
            for i in self.outcome_types or ()
        }


_PARTS: Final[dict[str, type[_Item]]] = {
    "offers": OfferItem,
    "treatments": TreatmentItem,
    "channels": ChannelItem,
    "outcomeTypes": OutcomeTypeItem,
}


def parse_document(data: bytes | str) -> CatalogDocument:
    """Parse and check the document in `data` (JSON, UTF-8). Raises CatalogError."""
    if isinstance(data, bytes):
        data = data.removeprefix(b"\xef\xbb\xbf")  # some editors write a BOM
    try:
        document = decode_json(data, CatalogDocument)
    except msgspec.ValidationError as error:
        raise CatalogError(_explained(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CatalogError(f"not a JSON document: {error}") from None
    check_document(document)
    return document


def check_document(document: CatalogDocument) -> None:
    """Check the rules that the types do not express. Raises CatalogError."""
    if document.timezone is not UNSET and not is_zone(document.timezone):
        raise CatalogError(
            f"timezone: {document.timezone!r} is not an IANA time zone name, such as Europe/Berlin"
        )
    _check_unique("offers", "id", (item.id for item in document.offers or ()))
    _check_unique("treatments", "id", (item.id for item in document.treatments or ()))
    _check_unique("channels", "id", (item.id for item in document.channels or ()))
    keys = [item.key for item in document.outcome_types or ()]
    _check_unique("outcomeTypes", "key", keys)
    for index, key in enumerate(keys):
        if key in SYSTEM_OUTCOME_TYPES:
            raise CatalogError(
                f"outcomeTypes[{index}].key: {key!r} is a system type; every tenant has it "
                f"and none can redefine it (system types: {', '.join(SYSTEM_OUTCOME_TYPES)})"
            )


def dump_document(document: CatalogDocument) -> bytes:
    """Return the document as indented JSON with a final newline; inverse of `parse_document`."""
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _check_unique(part: str, field: str, ids: Iterable[str]) -> None:
    seen: dict[str, int] = {}
    for index, id_ in enumerate(ids):
        if (first := seen.setdefault(id_, index)) != index:
            raise CatalogError(
                f"{part}[{index}].{field}: {id_!r} is given already in {part}[{first}]"
            )


def _explained(message: str) -> str:
    """Return msgspec's message with the path first, and with the allowed values added."""
    what, _, where = message.partition(" - at `$.")
    where = where.rstrip("`")
    if unknown := re.search(r"unknown field `(.*)`", what):
        part = where.partition("[")[0]
        known: Any = _PARTS.get(part, CatalogDocument)
        names = ", ".join(known.__struct_encode_fields__)
        what = f"unknown field {unknown[1]!r}; the fields are {names}"
    elif "x00" in what:  # the pattern of ids and texts
        what = "a NUL character is not allowed"
    elif where == "tenant" and "regex" in what:
        what = "expected 1 to 64 characters of A-Z a-z 0-9 _ . -"
    elif where.endswith(".classification") and "enum" in what:
        what += "; expected positive, negative or neutral"
    return f"{where}: {what}" if where else what
