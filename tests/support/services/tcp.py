"""Valkey and PostgreSQL on ports of 127.0.0.1, as in production, without passwords.

The tests put proxies, replicas and clusters in between, and the benches measure what a network
connection costs. `up` uses Unix sockets instead: a port is open to every user of the machine.
"""

from __future__ import annotations

from pathlib import Path

from cli.embedded.server import HOST, Endpoint, free_port
from cli.embedded.servers import Postgres, Valkey


class TcpValkey(Valkey):
    def __init__(self, port: int | None, data_dir: Path, *, program: Path | None = None) -> None:
        """`port` of None is replaced by a free one."""
        super().__init__(data_dir, program=program)
        self.port = free_port() if port is None else port

    @property
    def endpoint(self) -> Endpoint:
        return self.port

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def _listening(self) -> list[str]:
        return ["--bind", HOST, "--port", str(self.port)]


class TcpPostgres(Postgres):
    def __init__(
        self,
        data_dir: Path,
        port: int | None,
        *,
        durable: bool = True,
        programs: Path | None = None,
    ) -> None:
        """`port` of None is replaced by a free one."""
        super().__init__(data_dir, durable=durable, programs=programs)
        self.port = free_port() if port is None else port

    @property
    def endpoint(self) -> Endpoint:
        return self.port

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{self.address}/postgres"

    def _access_rules(self) -> dict[str, str]:
        return {"pg_hba.conf": f"host all all {HOST}/32 trust\n"}

    def _listening(self) -> dict[str, str]:
        return {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
        }
