"""Access: the tenant and role of a request, and the startup check of the settings."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, NamedTuple, Protocol

from fastapi import Depends, Request

from api.errors import ApiError, bad_request
from api.hosts import is_loopback
from api.key_checker import KeyChecker
from api.rate_limit import RateLimiter
from store.api_keys import Role, has_role
from store.records import DEFAULT_TENANT, is_tenant
from store.settings import MAKE_PEPPER, Settings

TENANT_HEADER: Final = "X-Tenant-Id"
KEY_HEADER: Final = "X-API-Key"
_BEARER: Final = re.compile(r"bearer +(\S+)", re.ASCII | re.IGNORECASE)


class Access(NamedTuple):
    """Tenant that a request is about, and the role of its sender."""

    tenant: str
    role: Role
    key_id: str | None = None


class StartupRefused(Exception):
    """Refusal to start with these settings; the message has the reason and the remedy."""


class Gate(Protocol):
    """Decides about the access of a request."""

    async def access(self, request: Request) -> Access:
        """Return the access of a request. Raises ApiError if it has none."""
        ...


class OpenGate:
    """Access with AUTH_MODE=open: every request is admin of the tenant in its header."""

    async def access(self, request: Request) -> Access:
        """Return the access. Raises ApiError 400 if the tenant's header is not one tenant."""
        return Access(_tenant_of(request) or DEFAULT_TENANT, "admin")


class KeyGate:
    """Access with AUTH_MODE=keys: the key decides the tenant, the role and the rate limit."""

    def __init__(
        self, checker: KeyChecker, limiter: RateLimiter, *, default_limit_per_minute: int
    ) -> None:
        """Limit keys without a limit of their own to the default; 0 = no limit."""
        self._checker = checker
        self._limiter = limiter
        self._default_limit = default_limit_per_minute

    async def access(self, request: Request) -> Access:
        """Return the access of the request's key.

        Raises ApiError 401 without a valid key, 403 for another tenant than the key's, 429 over
        the rate limit, and 503 if keys cannot be checked.
        """
        found = await self._checker.check(_key_of(request))
        if found is None:
            raise _unauthorized("the API key is not valid, or revoked")
        request.state.tenant = found.tenant
        request.state.key_id = found.id
        limit = found.rate_limit_per_minute or self._default_limit
        if limit:
            budget = await self._limiter.count(found.id, limit)
            request.state.response_headers = budget.headers()
            if budget.is_exceeded:
                raise ApiError(
                    429,
                    f"over {limit} requests per minute with this API key; try again in "
                    f"{budget.reset_s} s",
                    headers={"Retry-After": str(budget.reset_s)},
                )
        if _tenant_of(request) not in (None, found.tenant):
            raise ApiError(403, f"{TENANT_HEADER} is not the tenant of the API key; leave it out")
        return Access(found.tenant, found.role, found.id)


def _tenant_of(request: Request) -> str | None:
    """Return the tenant in the request's header, if there is one. Raises ApiError 400."""
    given = request.headers.getlist(TENANT_HEADER)
    if len(given) > 1:
        raise bad_request(f"{TENANT_HEADER} is given more than once; give it once")
    if not given:
        return None
    if not is_tenant(given[0]):
        raise bad_request(f"{TENANT_HEADER} must be 1 to 64 of A-Z a-z 0-9 _ . -")
    return given[0]


def _key_of(request: Request) -> str:
    """Return the only API key of the request. Raises ApiError 401."""
    keys = request.headers.getlist(KEY_HEADER)
    for value in request.headers.getlist("authorization"):
        bearer = _BEARER.fullmatch(value.strip())
        if bearer is None:
            raise _unauthorized(
                f"Authorization must be `Bearer KEY`; or send the API key as {KEY_HEADER}"
            )
        keys.append(bearer[1])
    if not keys:
        raise _unauthorized(
            f"an API key is needed: `{KEY_HEADER}: KEY` or `Authorization: Bearer KEY`"
        )
    if len(set(keys)) > 1:
        raise _unauthorized("the request has more than one API key; send one")
    return keys[0]


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, headers={"WWW-Authenticate": "Bearer"})


def _needs(role: Role) -> Callable[[Request], Awaitable[Access]]:
    """Return the dependency of endpoints for `role` and the roles above it."""

    async def dependency(request: Request) -> Access:
        gate: Gate = request.app.state.gate
        access = await gate.access(request)
        request.state.tenant = access.tenant
        if not has_role(access.role, role):
            raise ApiError(403, f"this needs the role {role}; the API key has {access.role}")
        return access

    return dependency


#: Annotations of an endpoint parameter that receives the access of the request.
Viewer = Annotated[Access, Depends(_needs("viewer"))]
Editor = Annotated[Access, Depends(_needs("editor"))]
Admin = Annotated[Access, Depends(_needs("admin"))]


async def optional_access(request: Request) -> Access | None:
    """Return the access of a request, or None if it has no key. A wrong key is a 401."""
    gate: Gate = request.app.state.gate
    if isinstance(gate, KeyGate) and not (
        KEY_HEADER in request.headers or "authorization" in request.headers
    ):
        return None
    return await gate.access(request)


def check_startup(settings: Settings, host: str) -> None:
    """Raise StartupRefused if serving on `host` with `settings` would not be safe."""
    if settings.auth_mode == "keys":
        if not settings.api_key_pepper:
            raise StartupRefused(
                "AUTH_MODE=keys needs API_KEY_PEPPER, the secret that API keys are hashed with. "
                "Make one, keep it, and give the same to every `api` and to `keys create`: "
                f"{MAKE_PEPPER}"
            )
    elif not is_loopback(host):
        raise StartupRefused(
            f"AUTH_MODE=open requires no key and therefore binds loopback only; {host!r} is not "
            "a loopback address: use 127.0.0.1, ::1 or localhost"
        )
