"""Access: the tenant and role of a request, and the startup check of the settings."""

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
    """Tenant that a request reads, and its role."""

    tenant: str
    role: Role


class StartupRefused(Exception):
    """Refusal to start with these settings; the message has the reason and the remedy."""


async def open_access(request: Request) -> Access:
    """Return the access of a request with AUTH_MODE=open: admin of the tenant in its header.

    Raises ApiError 400 if the header is repeated or is not a tenant name.
    """
    given = request.headers.getlist(TENANT_HEADER)
    if len(given) > 1:
        raise bad_request(f"{TENANT_HEADER} is given more than once; give it once")
    tenant = given[0] if given else DEFAULT_TENANT
    if not is_tenant(tenant):
        raise bad_request(f"{TENANT_HEADER} must be 1 to 64 of A-Z a-z 0-9 _ . -")
    request.state.tenant = tenant
    return Access(tenant, "admin")


#: Annotation for an endpoint parameter that receives the access of the request.
Caller = Annotated[Access, Depends(open_access)]


def is_loopback(host: str) -> bool:
    """Return whether a server bound to `host` is reachable from this machine only."""
    if host.lower() in LOOPBACK_HOSTS:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_startup(settings: Settings, host: str) -> None:
    """Raise StartupRefused if serving on `host` with `settings` would not be safe."""
    if settings.auth_mode != "open":
        raise StartupRefused(
            "AUTH_MODE=keys is not available in this version yet; set AUTH_MODE=open (no keys: "
            "every client that reaches the API may read it), which binds loopback only"
        )
    if not is_loopback(host):
        raise StartupRefused(
            f"AUTH_MODE=open requires no key and therefore binds loopback only; {host!r} is not "
            "a loopback address: use 127.0.0.1, ::1 or localhost"
        )
