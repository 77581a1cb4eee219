"""Loopback addresses and names, in settings and in headers. Pure.

With AUTH_MODE=open the API must answer only programs of this machine. Binding loopback keeps other
machines out, but not the pages that a browser on this machine shows: a page may give its own name
the address 127.0.0.1 (DNS rebinding), and then reads the API as its own site. Such a request has
the page's name in `Host`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from store.settings import LOOPBACK_HOSTS

_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?", re.ASCII)


def is_loopback(host: str) -> bool:
    """Return whether a server bound to `host` is reachable from this machine only."""
    if host.lower() in LOOPBACK_HOSTS:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback_authority(authority: str) -> bool:
    """Return whether a `Host` header, name and optional port, is a loopback name or address."""
    found = _HOST.fullmatch(authority)
    return found is not None and is_loopback(found[1].strip("[]"))


def is_loopback_origin(origin: str) -> bool:
    """Return whether an `Origin` header is a site on this machine.

    `null` is not: any page can produce it.
    """
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and is_loopback_authority(parts.netloc)
