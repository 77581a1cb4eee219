"""Apache Kafka, Debian's Redis and PostgreSQL that take nothing but TLS from the program.

Each has a user of the program with the rights that docs/operations.md names, and no more. The test
itself has a way in without TLS, to create that user and to look.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import redis

from cli.embedded.server import HOST, free_port
from tests.support.services.certificates import CertificateAuthority, KeyPair
from tests.support.services.real import (
    RealKafka,
    RealPostgres,
    RealRedis,
    kafka_jars,
    needed,
    postgres_programs,
)

USER = "summary"
#: The test's own user of Redis.
ADMIN = "admin"
#: Characters that have a meaning in URLs and in configuration files.
PASSWORD = "s3cret/@:+%='x"

_KAFKA = """
listeners=PLAINTEXT://{host}:{port},SASL_SSL://{host}:{sasl_port},SSL://{host}:{ssl_port},\
CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port},SASL_SSL://{host}:{sasl_port},SSL://{host}:{ssl_port}
listener.security.protocol.map=\
PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.ssl.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={keys}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
# The listener without TLS is the test's own, and that of the broker towards itself.
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""


class TlsKafka(RealKafka):
    """Kafka with a SASL_SSL listener, an SSL listener that wants a client's certificate, and ACLs.

    `bootstrap` is the listener of the test, without TLS.
    """

    def __init__(self, folder: Path, ca: CertificateAuthority, password: str) -> None:
        super().__init__(folder, kafka_jars())
        self._ca = ca
        self._keys = ca.issue("kafka").joined()
        self._password = password
        ports = {self.port, self._controller_port}
        self._sasl_port = _another_port(ports)
        self._ssl_port = _another_port(ports)

    @property
    def sasl_bootstrap(self) -> str:
        return f"{HOST}:{self._sasl_port}"

    @property
    def ssl_bootstrap(self) -> str:
        return f"{HOST}:{self._ssl_port}"

    def _properties(self) -> str:
        return super()._properties() + _KAFKA.format(
            host=HOST,
            port=self.port,
            sasl_port=self._sasl_port,
            ssl_port=self._ssl_port,
            controller_port=self._controller_port,
            keys=self._keys,
            ca=self._ca.file,
        )

    def _format_options(self) -> Sequence[str]:
        user = f'SCRAM-SHA-512=[name="{USER}",password="{self._password}"]'
        return ("--add-scram", user)


def _another_port(taken: set[int]) -> int:
    """Return a free port that is not in `taken`, and add it there."""
    while (port := free_port()) in taken:
        pass
    taken.add(port)
    return port


class TlsRedis(RealRedis):
    """Redis with a TLS port only; it has the user of the test, and the default user is off."""

    def __init__(self, folder: Path, ca: CertificateAuthority) -> None:
        super().__init__(None, folder, program=needed("redis-server", "redis-server"))
        self._ca = ca
        self._pair = ca.issue("redis")
        self._acl_file = folder / "users.acl"
        self._acl_file.write_text(f"user default off\nuser {ADMIN} on >{PASSWORD} ~* &* +@all\n")

    def url_of(self, user: str, password: str, ca_file: Path | None) -> str:
        query = "" if ca_file is None else f"?ssl_ca_certs={ca_file}"
        return f"rediss://{user}:{quote(password, safe='')}@{self.address}/0{query}"

    def _command(self) -> list[str]:
        return [
            *super()._command(),
            *("--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(self._pair.certificate), "--tls-key-file"),
            *(str(self._pair.key), "--tls-ca-cert-file", str(self._ca.file)),
            *("--aclfile", str(self._acl_file)),
        ]

    def _answers(self) -> bool:
        url = self.url_of(ADMIN, PASSWORD, self._ca.file)
        try:
            with redis.Redis.from_url(url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class TlsPostgres(RealPostgres):
    """PostgreSQL that takes passwords over TLS; `url` is the test's own way in, without either."""

    def __init__(self, folder: Path, ca: CertificateAuthority) -> None:
        super().__init__(folder, None, durable=False, programs=postgres_programs())
        self._pair = ca.issue("postgres")

    @property
    def url(self) -> str:
        return f"{super().url}?sslmode=disable"

    def url_of(self, user: str, password: str, database: str, ca_file: Path) -> str:
        tls = f"sslmode=verify-full&sslrootcert={ca_file}"
        return f"postgresql://{user}:{quote(password, safe='')}@{self.address}/{database}?{tls}"

    def _prepare(self) -> None:
        super()._prepare()
        (self._data / "pg_hba.conf").write_text(
            f"hostnossl all postgres {HOST}/32 trust\nhostssl all all {HOST}/32 scram-sha-256\n"
        )
        # It refuses a key that others can read.
        self._pair.key.chmod(0o600)
        if (user := self._user()) is not None:
            os.chown(self._pair.key, *user)

    def _command(self) -> list[str]:
        files = {"ssl_cert_file": self._pair.certificate, "ssl_key_file": self._pair.key}
        command = [*super()._command(), "-c", "ssl=on"]
        for name, path in files.items():
            command += ["-c", f"{name}={path}"]
        return command


class TlsServices(NamedTuple):
    """Servers that take nothing but TLS from the program."""

    folder: Path
    ca: CertificateAuthority
    other_ca: CertificateAuthority
    client: KeyPair
    """Certificate of a client, signed by `ca`."""
    kafka: TlsKafka
    redis: TlsRedis
    postgres: TlsPostgres


def tls_services(folder: Path) -> TlsServices:
    """Return the servers, not yet started."""
    ca = CertificateAuthority(folder, "ca")
    return TlsServices(
        folder=folder,
        ca=ca,
        other_ca=CertificateAuthority(folder, "other-ca"),
        client=ca.issue(USER),
        kafka=TlsKafka(folder, ca, PASSWORD),
        redis=TlsRedis(folder, ca),
        postgres=TlsPostgres(folder, ca),
    )
