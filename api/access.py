"""Who asks: the tenant and role of a request, and whether the settings let the reader start."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Final, Literal, NamedTuple

from fastapi import Depends, Request

from api.errors import bad_request
from store.records import DEFAULT_TENANT, is_tenant
from store.settings import LOOPBACK_HOSTS, Settings

Role = Literal["viewer", "editor", "admin"]
TENANT_HEADER: Final = "X-Tenant-Id"


class Access(NamedTuple):
    """What a request may see and do."""

    tenant: str
    role: Role


class StartupRefused(Exception):
    """The settings do not let the reader start; the message says why and what to do."""


async def open_access(request: Request) -> Access:
    """AUTH_MODE=open: whoever reaches us is admin of the tenant they name. Raises ApiError 400."""
    named = request.headers.getlist(TENANT_HEADER)
    if len(named) > 1:
        raise bad_request(f"{TENANT_HEADER} is given more than once; give it once")
    tenant = named[0] if named else DEFAULT_TENANT
    if not is_tenant(tenant):
        raise bad_request(f"{TENANT_HEADER} must be 1 to 64 of A-Z a-z 0-9 _ . -")
    request.state.tenant = tenant
    return Access(tenant, "admin")


#: The access of a request, for an endpoint's signature.
Caller = Annotated[Access, Depends(open_access)]


def is_loopback(host: str) -> bool:
    """Whether what binds `host` can be reached from this machine only."""
    if host.lower() in LOOPBACK_HOSTS:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_startup(settings: Settings, host: str) -> None:
    """Raises StartupRefused where serving on `host` with `settings` would not be safe."""
    if settings.auth_mode != "open":
        raise StartupRefused(
            "AUTH_MODE=keys is not available in this version yet; set AUTH_MODE=open "
            "(no keys: whoever reaches the API reads it), which binds loopback only"
        )
    if not is_loopback(host):
        raise StartupRefused(
            f"AUTH_MODE=open asks for no key and therefore binds loopback only; {host!r} is not: "
            "use 127.0.0.1, ::1 or localhost"
        )
