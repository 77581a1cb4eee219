"""Settings of TLS and authentication: impossible combinations, secrets, and reasons of refusals."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from pydantic import ValidationError
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.exceptions import ConnectionError as RedisConnectionError

from store.postgres.pool import connect_options, is_refusal
from store.records import AccessRefused, StoreUnavailable
from store.redis.client import make_client, redis_errors
from store.settings import Settings
from streams.kafka.connection import (
    aiokafka_options,
    explain,
    kafka_python_options,
    ssl_context,
)
from streams.kafka.consumer import credentials
from tests.support.command_line import refused

SECRET = "hunter2"
SASL = {
    "kafka_security_protocol": "SASL_SSL",
    "kafka_sasl_username": "summary",
    "kafka_sasl_password": SECRET,
}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_password": SECRET},
            "KAFKA_SECURITY_PROTOCOL=SASL_SSL needs KAFKA_SASL_USERNAME",
        ),
        (
            {"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_sasl_username": "summary"},
            "KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT needs KAFKA_SASL_PASSWORD",
        ),
        (
            {"kafka_sasl_password": SECRET},
            "KAFKA_SASL_PASSWORD is set, but KAFKA_SECURITY_PROTOCOL=PLAINTEXT does not use it: "
            "set SASL_SSL or SASL_PLAINTEXT, or unset it",
        ),
        (
            {"kafka_security_protocol": "SSL", "kafka_sasl_username": "summary"},
            "KAFKA_SASL_USERNAME is set, but KAFKA_SECURITY_PROTOCOL=SSL does not use it",
        ),
        (
            SASL | {"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_ssl_ca_file": "ca.pem"},
            "KAFKA_SSL_CA_FILE is set, but KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT does not use it: "
            "set SSL or SASL_SSL, or unset it",
        ),
        (
            {"kafka_security_protocol": "SSL", "kafka_ssl_key_file": "client.key"},
            "KAFKA_SSL_KEY_FILE is set: it needs KAFKA_SSL_CERTIFICATE_FILE",
        ),
    ],
)
def test_an_impossible_combination_is_refused_by_name(given: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings(**given)  # type: ignore[arg-type]
    assert message in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_the_command_line_names_the_setting_and_not_its_value() -> None:
    line = refused("status", KAFKA_SASL_PASSWORD=SECRET)
    assert line.startswith("error: KAFKA_SASL_PASSWORD is set, but KAFKA_SECURITY_PROTOCOL=PLAIN")
    assert SECRET not in line
    line = refused("status", KAFKA_SASL_MECHANISM="GSSAPI", KAFKA_SECURITY_PROTOCOL="SASL_SSL")
    assert "KAFKA_SASL_MECHANISM='GSSAPI'" in line


def test_no_secret_is_in_what_settings_and_clients_show_of_themselves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = Settings(
        redis_url=f"redis://u:{SECRET}@127.0.0.1:1/0",
        database_url=f"postgresql://u:{SECRET}@127.0.0.1:1/x",
        api_key_pepper="p" * 32 + SECRET,
        **SASL,  # type: ignore[arg-type]
    )
    assert settings.kafka_sasl_password == SECRET
    with caplog.at_level(logging.DEBUG):
        shown = f"{settings!r} {settings} {credentials(settings)!r}"
    assert SECRET not in shown + caplog.text
    assert "kafka_sasl_username='summary'" in repr(settings), "and the rest is shown"


def test_both_clients_get_the_same_access() -> None:
    settings = Settings(kafka_bootstrap_servers="a:1, b:2", **SASL)  # type: ignore[arg-type]
    for options in (aiokafka_options(settings), kafka_python_options(settings)):
        context = options.pop("ssl_context")
        assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
        assert options == {
            "bootstrap_servers": ["a:1", "b:2"],
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": "summary",
            "sasl_plain_password": SECRET,
        }
    plain = {"bootstrap_servers": ["127.0.0.1:9092"], "security_protocol": "PLAINTEXT"}
    assert aiokafka_options(Settings()) == kafka_python_options(Settings()) == plain


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "ca.pem")
    settings = Settings(kafka_security_protocol="SSL", kafka_ssl_ca_file=missing)
    with pytest.raises(ValueError, match=f"KAFKA_SSL_CA_FILE={missing}: No such file"):
        ssl_context(settings)
    Path(missing).write_text("not a certificate")
    with pytest.raises(ValueError, match=r"KAFKA_SSL_CA_FILE=.+: NO_CERTIFICATE_OR_CRL_FOUND"):
        ssl_context(settings)
    settings = Settings(kafka_security_protocol="SSL", kafka_ssl_certificate_file=missing + "2")
    with pytest.raises(ValueError, match=r"KAFKA_SSL_CERTIFICATE_FILE=.+: No such file"):
        ssl_context(settings)


@pytest.mark.parametrize(
    ("error", "kind", "names"),
    [
        (ssl.SSLCertVerificationError(1, "x"), AccessRefused, "KAFKA_SSL_CA_FILE"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), AccessRefused, "KAFKA_SECURITY_PROTOCOL"),
        (ssl.SSLError(1, "certificate required"), AccessRefused, "KAFKA_SSL_CERTIFICATE_FILE"),
        (SaslAuthenticationFailed("x"), AccessRefused, "KAFKA_SASL_PASSWORD"),
        (UnsupportedSaslMechanismError("x"), AccessRefused, "KAFKA_SASL_MECHANISM=SCRAM-SHA-512"),
        (KafkaConnectionError("x"), StoreUnavailable, "KAFKA_SECURITY_PROTOCOL=SASL_SSL"),
        (ConnectionResetError("x"), StoreUnavailable, "KAFKA_SECURITY_PROTOCOL=SASL_SSL"),
    ],
)
def test_a_refusal_names_the_broker_and_the_setting(
    error: Exception, kind: type[StoreUnavailable], names: str
) -> None:
    verdict = explain(Settings(**SASL), "kafka-1:9093", error)  # type: ignore[arg-type]
    assert type(verdict) is kind
    assert str(verdict).startswith("Kafka: ")
    assert "kafka-1:9093" in str(verdict) and names in str(verdict)
    assert SECRET not in str(verdict)


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError("x"), TimeoutError(), OSError("no route")]
)
def test_a_broker_that_does_not_answer_is_no_refusal(error: Exception) -> None:
    assert explain(Settings(), "kafka-1:9092", error) is None


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AuthenticationError("WRONGPASS"), AccessRefused),
        (NoPermissionError("NOPERM"), AccessRefused),
        (RedisConnectionError("refused"), StoreUnavailable),
    ],
)
async def test_redis_refusals_are_told_from_outages(
    error: Exception, kind: type[StoreUnavailable]
) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        async with redis_errors():
            raise error
    assert type(caught.value) is kind
    assert ("REDIS_URL" in str(caught.value)) == (kind is AccessRefused)


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        ('FATAL: password authentication failed for user "x"', True),
        ('FATAL: no pg_hba.conf entry for host "10.0.0.1", user "x", no encryption', True),
        ("SSL error: certificate verify failed", True),
        ('server certificate for "db" does not match host name "127.0.0.1"', True),
        ('root certificate file "/ca.pem" does not exist', True),
        ("connection failed: Connection refused", False),
        ("FATAL: the database system is starting up", False),
        ("SSL SYSCALL error: EOF detected", False),
        ("FATAL: sorry, too many clients already", False),
    ],
)
def test_postgres_refusals_are_told_from_outages(message: str, refusal: bool) -> None:
    assert is_refusal(message) == refusal


@pytest.mark.parametrize(
    "url", [f"postgres//u:{SECRET}@db/x", f"postgresql://u:{SECRET}@db:port%/x"]
)
def test_a_malformed_database_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"^DATABASE_URL is not valid") as refusal:
        connect_options(url)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"tcp://u:{SECRET}@redis/0", "REDIS_URL is not valid"),
        (f"redis://u:{SECRET}/@redis:6379/0", "REDIS_URL is not valid"),
        (f"redis://u:{SECRET}@redis/0?ssl_ca_certs=/ca.pem", "begin it with rediss://"),
        (f"rediss://u:{SECRET}@redis/0?ssl_ca_certs=/no/ca.pem", "ssl_ca_certs=/no/ca.pem: there"),
    ],
)
def test_a_redis_url_that_cannot_work_is_refused_without_its_password(
    url: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        make_client(Settings(redis_url=url), timeout_s=1, retries=0)
    assert SECRET not in str(refusal.value)
