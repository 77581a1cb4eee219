"""API keys: how they are made, hashed and compared. Pure, but for the random characters.

A key is `krn_` and 32 random characters (190 bits), so its hash needs no slow function: nobody can
try enough keys. The hash is an HMAC with the pepper, which is not in the database: a copy of the
table alone neither gives a key nor lets anybody make one.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, get_args

Role = Literal["viewer", "editor", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""In the order of their rights: each has those of the ones before it."""

PREFIX: Final = "krn_"
RANDOM_CHARS: Final = 32
#: Characters of a key that lists show, to tell keys apart; too few to help to guess one.
SHOWN_CHARS: Final = len(PREFIX) + 4
NAME_CHARS_MAX: Final = 100
#: Largest rate limit of a key, in requests per minute.
RATE_LIMIT_MAX: Final = 10_000_000

_ALPHABET: Final = string.ascii_letters + string.digits
_KEY: Final = re.compile(rf"{PREFIX}[A-Za-z0-9]{{{RANDOM_CHARS}}}", re.ASCII)


class ApiKey(NamedTuple):
    """What is stored of a key that is not revoked, as far as a request needs it."""

    id: str
    tenant: str
    role: Role
    key_hash: bytes
    rate_limit_per_minute: int | None
    """None: the setting RATE_LIMIT_PER_MINUTE."""


class ListedKey(NamedTuple):
    """What is shown of a key."""

    id: str
    tenant: str
    role: Role
    name: str
    prefix: str
    rate_limit_per_minute: int | None
    created_at: datetime
    revoked_at: datetime | None
    pepper_id: str
    """The pepper of its hash, see `pepper_id`."""


def make_key() -> str:
    """Return a new random key."""
    return PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(RANDOM_CHARS))


def is_key(text: str) -> bool:
    """Return whether `text` has the form of a key."""
    return _KEY.fullmatch(text) is not None


def hide_keys(text: str) -> str:
    """Return `text` with each key in it cut to its SHOWN_CHARS: for logs and errors."""
    return _KEY.sub(lambda found: found[0][:SHOWN_CHARS] + "…", text)


def hash_key(key: str, pepper: str) -> bytes:
    """Return the HMAC-SHA-256 of the key, 32 bytes."""
    return hmac.digest(pepper.encode(), key.encode(), "sha256")


def pepper_id(pepper: str) -> str:
    """Return a name of the pepper that does not reveal it, 8 hexadecimal digits."""
    return hmac.digest(pepper.encode(), b"pepper id", "sha256").hex()[:8]


def has_role(role: Role, needed: Role) -> bool:
    """Return whether `role` includes the rights of `needed`."""
    return ROLES.index(role) >= ROLES.index(needed)


def describe(key: ListedKey, current_pepper_id: str) -> dict[str, Any]:
    """Return what JSON output shows of a key.

    `current_pepper_id`: of the setting API_KEY_PEPPER, or empty if that is not set.
    """
    pepper = "unknown"
    if current_pepper_id:
        pepper = "current" if key.pepper_id == current_pepper_id else "other"
    return {
        "id": key.id,
        "tenant": key.tenant,
        "role": key.role,
        "name": key.name,
        "prefix": key.prefix,
        "rateLimitPerMinute": key.rate_limit_per_minute,
        "createdAt": key.created_at.isoformat(),
        "revokedAt": key.revoked_at.isoformat() if key.revoked_at else None,
        "pepper": pepper,
    }
