"""Connection arguments of all Kafka clients, from the settings, and why a connection is refused."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from store.records import AccessRefused, StoreUnavailable
from store.settings import Settings

#: Bound of one attempt to find out why a broker cannot be used.
PROBE_TIMEOUT_S: Final = 5.0
_BAD_CREDENTIALS: Final = (
    SaslAuthenticationFailed,
    AuthenticationFailedError,
    IllegalSaslStateError,
)
_BAD_MECHANISM: Final = (UnsupportedSaslMechanismError, AuthenticationMethodNotSupported)


def aiokafka_options(settings: Settings) -> dict[str, Any]:
    """Return the arguments of aiokafka's clients: addresses, TLS and authentication.

    Raises ValueError, which names the setting, for a file that cannot be used.
    """
    return {"bootstrap_servers": settings.brokers, **_security(settings)}


def kafka_python_options(settings: Settings) -> dict[str, Any]:
    """Return the same arguments for kafka-python's clients. Raises ValueError."""
    return {"bootstrap_servers": settings.brokers, **_security(settings)}


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context, which verifies certificate and host name; None = no TLS.

    Raises ValueError, which names the setting, for a file that cannot be used.
    """
    if not settings.kafka_security_protocol.endswith("SSL"):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ssl_ca_file or None)
    except OSError as error:  # also ssl.SSLError
        raise _unusable("KAFKA_SSL_CA_FILE", settings.kafka_ssl_ca_file, error) from None
    certificate, key = settings.kafka_ssl_certificate_file, settings.kafka_ssl_key_file
    if certificate:
        try:
            context.load_cert_chain(certificate, key or None, password=_no_passphrase)
        except OSError as error:
            name = "KAFKA_SSL_CERTIFICATE_FILE"
            files = f"{certificate} with KAFKA_SSL_KEY_FILE={key}" if key else certificate
            raise _unusable(name, files, error) from None
    return context


def _no_passphrase() -> str:
    # Without this, OpenSSL would ask on the terminal.
    raise ValueError("KAFKA_SSL_KEY_FILE has a passphrase: store the key without one")


def _unusable(name: str, value: str, error: OSError) -> ValueError:
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    return ValueError(f"{name}={value}: {reason}")


def _security(settings: Settings) -> dict[str, Any]:
    protocol = settings.kafka_security_protocol
    options: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        options["ssl_context"] = ssl_context(settings)
    if protocol.startswith("SASL_"):
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": settings.kafka_sasl_password,
        }
    return options


async def start_client(client: Any, settings: Settings) -> None:
    """Start one of aiokafka's clients; the caller stops it, also if this fails.

    The client's own error does not say why no broker could be used. Raises AccessRefused if that
    is TLS or authentication, else the client's error.
    """
    try:
        await client.start()
    except KafkaConnectionError:
        await check_access(settings)
        raise


async def check_access(settings: Settings) -> None:
    """Raise AccessRefused if no broker accepts a connection because of TLS or authentication.

    Raises StoreUnavailable where the reason may be another one: the broker closes the connection
    at once. Returns if a broker accepts the connection, or none answers.
    """
    refusals: list[StoreUnavailable] = []
    security = _security(settings)
    connection: AIOKafkaConnection | None = None
    for host, port, _ in collect_hosts(settings.brokers):
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                connection = await create_conn(
                    host, port, client_id="interaction-summary-check", **security
                )
                # A listener with SASL takes the first request of a client without, not this one.
                await connection.send(MetadataRequest([]))
        except (OSError, KafkaError) as error:
            refusal = explain(settings, f"{host}:{port}", error)
            if refusal is not None:
                refusals.append(refusal)
        else:
            return
        finally:
            if connection is not None:
                connection.close()
    if refusals:
        # One broker that refuses for good says more than another that does not answer.
        raise min(refusals, key=lambda each: not isinstance(each, AccessRefused))


async def raise_if_refused(settings: Settings) -> None:
    """Raise AccessRefused as `check_access` does; return where another reason is possible."""
    try:
        await check_access(settings)
    except AccessRefused:
        raise
    except StoreUnavailable:
        return


def explain(settings: Settings, broker: str, error: BaseException) -> StoreUnavailable | None:
    """Return what a failed connection to `broker` means, with the settings to check.

    Returns None for an error that has nothing to do with TLS or authentication. Pure.
    """
    protocol = settings.kafka_security_protocol
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = getattr(error, "verify_message", error)
        return AccessRefused(
            f"Kafka: the certificate of {broker} is refused: {reason}; check "
            "KAFKA_SSL_CA_FILE, and that KAFKA_BOOTSTRAP_SERVERS has a name of the certificate"
        )
    if isinstance(error, ssl.SSLError):
        if "WRONG_VERSION_NUMBER" in str(error):
            return AccessRefused(
                f"Kafka: {broker} does not use TLS; check KAFKA_SECURITY_PROTOCOL={protocol}"
            )
        return AccessRefused(
            f"Kafka: TLS with {broker} failed: {getattr(error, 'reason', None) or error}; check "
            "KAFKA_SSL_CA_FILE and KAFKA_SSL_CERTIFICATE_FILE"
        )
    if isinstance(error, _BAD_MECHANISM):
        return AccessRefused(
            f"Kafka: {broker} does not offer KAFKA_SASL_MECHANISM={settings.kafka_sasl_mechanism}"
        )
    if isinstance(error, _BAD_CREDENTIALS):
        return AccessRefused(
            f"Kafka: {broker} refuses the user {settings.kafka_sasl_username!r} "
            f"({settings.kafka_sasl_mechanism}); check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
        )
    if isinstance(error, KafkaConnectionError | ConnectionResetError):
        wants_one = protocol.endswith("SSL") and not settings.kafka_ssl_certificate_file
        certificate = ", and needs no KAFKA_SSL_CERTIFICATE_FILE" if wants_one else ""
        return StoreUnavailable(
            f"Kafka: {broker} closes connections at once; check that this listener uses "
            f"KAFKA_SECURITY_PROTOCOL={protocol}{certificate}"
        )
    return None
