"""The servers that `up` starts, from wheels."""

from __future__ import annotations

from pathlib import Path

from cli.embedded.servers import Broker
from tests.support.services.base import Faults, Services
from tests.support.services.tcp import TcpPostgres, TcpValkey


class WheelBroker(Faults, Broker):
    pass


class WheelValkey(Faults, TcpValkey):
    pass


class WheelPostgres(Faults, TcpPostgres):
    pass


def services(folder: Path, *, durable: bool = False) -> Services:
    """Return the servers, not yet started; `durable`: whether PostgreSQL waits for the disk."""
    return Services(
        "wheels",
        WheelBroker(None, folder),
        WheelValkey(None, folder),
        WheelPostgres(folder, None, durable=durable),
    )
