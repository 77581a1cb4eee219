"""All connections over TLS: every command works, and what is refused is said in one line."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
import redis
from kafka.admin import KafkaAdminClient

from cli.embedded.server import StackError
from store.settings import Settings
from tests.support.all_commands import run_all_commands
from tests.support.command_line import run
from tests.support.documented_rights import (
    create_redis_user,
    denials,
    grant_kafka,
    grant_kafka_create,
    postgres_grants,
)
from tests.support.program import Program
from tests.support.services.certificates import with_passphrase
from tests.support.services.tls import ADMIN, PASSWORD, USER, TlsServices, tls_services

PREFIX = "is"


@pytest.fixture(scope="module")
def tls(pytestconfig: pytest.Config) -> Iterator[TlsServices]:
    """Return running servers that take nothing but TLS from the program."""
    kind = pytestconfig.getoption("--services")
    if kind != "real":
        pytest.skip(
            f"--services={kind}: the servers of the wheels are built without TLS, and the brokers "
            "of the containers have no such listener; needs --services=real"
        )
    folder = Path(tempfile.mkdtemp(prefix="interaction-summary-tls-"))
    folder.chmod(0o755)
    started = []
    try:
        servers = tls_services(folder)
        for server in (servers.kafka, servers.redis, servers.postgres):
            server.start()
            started.append(server)
        with admin_of_redis(servers) as admin:
            create_redis_user(admin, USER, PASSWORD, PREFIX)
        with psycopg.connect(servers.postgres.url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {USER} LOGIN PASSWORD $${PASSWORD}$$".encode())
        yield servers
    except StackError as error:
        pytest.exit(f"--services={kind}: {error}", returncode=3)
    finally:
        for server in reversed(started):
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Access(NamedTuple):
    """Settings of the program's own user, and of the owner of its database."""

    own: Settings
    owner: Settings


@pytest.fixture
def access(request: pytest.FixtureRequest, tls: TlsServices) -> Iterator[Access]:
    """Return settings with TLS to all stores, and a database and topics of this test.

    `request.param` is the security protocol of Kafka.
    """
    protocol = request.param
    name = f"summary_{protocol.lower()}"
    with psycopg.connect(tls.postgres.url, autocommit=True) as admin:
        for role in (f"{name}_owner", name):
            admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD $${PASSWORD}$$".encode())
        admin.execute(f"CREATE DATABASE {name} OWNER {name}_owner".encode())
    owner_url = tls.postgres.url_of(f"{name}_owner", PASSWORD, name, tls.ca.file)
    with psycopg.connect(owner_url, autocommit=True) as own:
        for statement in postgres_grants(name):
            own.execute(statement.encode())
    with admin_of_redis(tls) as client:
        client.flushall()
        client.execute_command("ACL", "LOG", "RESET")
    settings = Settings(
        **kafka_access(tls, protocol),
        interactions_topic=f"interactions-{name}",
        dead_letter_topic=f"interactions-{name}.dlq",
        consumer_group=f"group-{name}",
        redis_url=tls.redis.url_of(USER, PASSWORD, tls.ca.file),
        redis_prefix=PREFIX,
        database_url=tls.postgres.url_of(name, PASSWORD, name, tls.ca.file),
        auth_mode="open",
    )
    with closing(KafkaAdminClient(bootstrap_servers=tls.kafka.bootstrap)) as client:
        principal = f"User:{USER}" if protocol == "SASL_SSL" else f"User:CN={USER}"
        grant_kafka(client, principal, settings)
        grant_kafka_create(client, principal, settings)
    yield Access(settings, settings.model_copy(update={"database_url": owner_url}))
    with psycopg.connect(tls.postgres.url, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def kafka_access(tls: TlsServices, protocol: str) -> dict[str, Any]:
    """Return the settings of the listener: `SASL_SSL` with a password, `SSL` with a certificate."""
    common = {"kafka_security_protocol": protocol, "kafka_ssl_ca_file": str(tls.ca.file)}
    if protocol == "SASL_SSL":
        return common | {
            "kafka_bootstrap_servers": tls.kafka.sasl_bootstrap,
            "kafka_sasl_username": USER,
            "kafka_sasl_password": PASSWORD,
        }
    return common | {
        "kafka_bootstrap_servers": tls.kafka.ssl_bootstrap,
        "kafka_ssl_certificate_file": str(tls.client.certificate),
        "kafka_ssl_key_file": str(tls.client.key),
    }


def admin_of_redis(tls: TlsServices) -> redis.Redis:
    return redis.Redis.from_url(tls.redis.url_of(ADMIN, PASSWORD, tls.ca.file))


@pytest.mark.long
@pytest.mark.parametrize(
    ("access", "kafka_only"), [("SASL_SSL", False), ("SSL", True)], indirect=["access"]
)
def test_every_command_works_over_tls_and_answers_are_exact(
    tls: TlsServices, access: Access, kafka_only: bool, tmp_path: Path
) -> None:
    """With the documented rights in all stores. The protocol is that of Kafka."""
    owner, program = Program(access.owner, tmp_path), Program(access.own, tmp_path)
    try:
        run_all_commands(owner, program, kafka_only=kafka_only)
    finally:
        program.close()
    with admin_of_redis(tls) as client:
        assert denials(client, USER) == []
    for path in tmp_path.glob("*.log"):
        text = path.read_text()
        assert "AuthorizationFailed" not in text and "permission" not in text, path
        assert PASSWORD not in text, path


class Fault(NamedTuple):
    """Settings that a store must refuse, and what the line about it must say."""

    changes: dict[str, str]
    says: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...] = (("worker",),)


KAFKA: tuple[tuple[str, ...], ...] = (
    ("worker",),
    ("migrate",),
    ("load", "--events", "1", "--seed", "1"),
    ("dlq", "list"),
)
MISTYPED = "m1styped"


def faults(tls: TlsServices) -> dict[str, Fault]:
    """Return name -> fault."""
    password, ca = PASSWORD, tls.ca.file
    other = tls.other_ca
    bad_pair = other.issue("stranger")
    port = tls.kafka.sasl_bootstrap.rpartition(":")[2]
    url_of = tls.postgres.url_of
    return {
        "kafka: other CA": Fault(
            {"KAFKA_SSL_CA_FILE": str(other.file)},
            ("Kafka: the certificate of 127.0.0.1:", "issuer certificate", "KAFKA_SSL_CA_FILE"),
            KAFKA,
        ),
        "kafka: name not in the certificate": Fault(
            {"KAFKA_BOOTSTRAP_SERVERS": f"localhost:{port}"},
            ("Hostname mismatch", "'localhost'", "KAFKA_BOOTSTRAP_SERVERS"),
        ),
        "kafka: password": Fault(
            {"KAFKA_SASL_PASSWORD": MISTYPED},
            (f"refuses the user '{USER}' (SCRAM-SHA-512)", "KAFKA_SASL_PASSWORD"),
            KAFKA,
        ),
        "kafka: mechanism": Fault(
            {"KAFKA_SASL_MECHANISM": "SCRAM-SHA-256"},
            ("does not offer KAFKA_SASL_MECHANISM=SCRAM-SHA-256",),
        ),
        "kafka: no client certificate": Fault(
            {
                "KAFKA_SECURITY_PROTOCOL": "SSL",
                "KAFKA_SASL_USERNAME": "",
                "KAFKA_SASL_PASSWORD": "",
                "KAFKA_BOOTSTRAP_SERVERS": tls.kafka.ssl_bootstrap,
            },
            ("KAFKA_SSL_CERTIFICATE_FILE",),
            (("load", "--events", "1", "--seed", "1"),),
        ),
        "kafka: key of another certificate": Fault(
            {
                "KAFKA_SSL_CERTIFICATE_FILE": str(tls.client.certificate),
                "KAFKA_SSL_KEY_FILE": str(bad_pair.key),
            },
            ("KAFKA_SSL_CERTIFICATE_FILE=", "KAFKA_SSL_KEY_FILE=", "KEY_VALUES_MISMATCH"),
        ),
        "kafka: key with a passphrase": Fault(
            {
                "KAFKA_SSL_CERTIFICATE_FILE": str(tls.client.certificate),
                "KAFKA_SSL_KEY_FILE": str(with_passphrase(tls.client)),
            },
            ("KAFKA_SSL_KEY_FILE has a passphrase",),
        ),
        "kafka: plain text": Fault(
            {
                "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
                "KAFKA_SASL_USERNAME": "",
                "KAFKA_SASL_PASSWORD": "",
                "KAFKA_SSL_CA_FILE": "",
            },
            ("closes connections at once", "KAFKA_SECURITY_PROTOCOL=PLAINTEXT"),
            (("load", "--events", "1", "--seed", "1"),),
        ),
        "redis: other CA": Fault(
            {"REDIS_URL": tls.redis.url_of(USER, password, other.file)},
            ("Redis: ", "certificate verify failed", "ssl_ca_certs in REDIS_URL"),
            (("worker",), ("tenants", "list")),
        ),
        "redis: password": Fault(
            {"REDIS_URL": tls.redis.url_of(USER, MISTYPED, ca)},
            ("Redis: ", "invalid username-password pair", "REDIS_URL"),
            (("worker",), ("tenants", "list")),
        ),
        "postgres: other CA": Fault(
            {"DATABASE_URL": url_of(USER, password, "postgres", other.file)},
            ("Postgres: ", "certificate verify failed", "sslrootcert"),
            (("worker",), ("catalog", "export"), ("migrate",)),
        ),
        "postgres: password": Fault(
            {"DATABASE_URL": url_of(USER, MISTYPED, "postgres", ca)},
            ("Postgres: ", "password authentication failed", f'"{USER}"', "DATABASE_URL"),
            (("worker",), ("catalog", "export"), ("migrate",)),
        ),
    }


@pytest.mark.long
def test_each_refusal_ends_a_command_with_one_line_that_names_the_cause(tls: TlsServices) -> None:
    given: dict[str, Any] = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_BOOTSTRAP_SERVERS": tls.kafka.sasl_bootstrap,
        "KAFKA_SASL_USERNAME": USER,
        "KAFKA_SASL_PASSWORD": PASSWORD,
        "KAFKA_SSL_CA_FILE": str(tls.ca.file),
        "INTERACTIONS_TOPIC": "interactions-refused",
        "DEAD_LETTER_TOPIC": "interactions-refused.dlq",
        "REDIS_URL": tls.redis.url_of(USER, PASSWORD, tls.ca.file),
        "DATABASE_URL": tls.postgres.url_of(USER, PASSWORD, "postgres", tls.ca.file),
    }
    with closing(KafkaAdminClient(bootstrap_servers=tls.kafka.bootstrap)) as admin:
        topics = {name.lower(): given[name] for name in given if name.endswith("_TOPIC")}
        settings = Settings(**topics)
        grant_kafka(admin, f"User:{USER}", settings)
        grant_kafka_create(admin, f"User:{USER}", settings)
    for name, fault in faults(tls).items():
        for command in fault.commands:
            done = run(*command, **(given | fault.changes))
            assert done.returncode == 1, (name, command, done.stderr)
            # `load` says which seed it uses.
            lines = [each for each in done.stderr.splitlines() if not each.startswith("seed ")]
            assert len(lines) == 1, (name, command, done.stderr)
            (line,) = lines
            for part in fault.says:
                assert part in line, (name, command, line)
            assert PASSWORD not in line and MISTYPED not in line, (name, command)
