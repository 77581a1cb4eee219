"""The settings class. Every value comes from the environment variable of the field's name.

A secret may come from a file instead (`store.secret_files`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from store.api_keys import RATE_LIMIT_MAX
from store.secret_files import SecretFiles

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
#: Settings that are secret or hold a password: not in a `repr`, and may come from a file.
SECRETS: Final = (
    "kafka_sasl_password",
    "redis_url",
    "database_url",
    "api_key_pepper",
    "api_key_pepper_previous",
)
#: 32 random characters cannot be guessed; a pepper of a person's making is shorter.
PEPPER_CHARS_MIN: Final = 32
MAKE_PEPPER: Final = "python3 -c 'import secrets; print(secrets.token_hex(32))'"


class KafkaConnection(BaseSettings):
    """Settings of the connection to Kafka. Those of the other stores are in their URLs."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    kafka_bootstrap_servers: str = Field(
        "127.0.0.1:9092", description="Kafka brokers, `host:port`, comma separated"
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT",
        description="`SSL` and `SASL_SSL`: TLS, with the broker's certificate and host name "
        "verified; `SASL_…`: with user and password",
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="how user and password are proven; only with `SASL_…`"
    )
    kafka_sasl_username: str = Field("", description="Kafka user; only with `SASL_…`")
    kafka_sasl_password: str = Field("", description="its password")
    kafka_ssl_ca_file: str = Field(
        "",
        description="file of the CA certificates that may sign the brokers', as PEM; empty = those "
        "of the system",
    )
    kafka_ssl_certificate_file: str = Field(
        "", description="certificate of this client, as PEM (mutual TLS); empty = none"
    )
    kafka_ssl_key_file: str = Field(
        "",
        description="its private key, as PEM without a passphrase; empty = in the file of the "
        "certificate",
    )

    @model_validator(mode="after")
    def _kafka_access_is_possible(self) -> Self:
        protocol = self.kafka_security_protocol
        if protocol.startswith("SASL_"):
            for name in ("kafka_sasl_username", "kafka_sasl_password"):
                if not getattr(self, name):
                    raise ValueError(f"KAFKA_SECURITY_PROTOCOL={protocol} needs {name.upper()}")
        self._check_unused(
            protocol.startswith("SASL_"),
            ("kafka_sasl_username", "kafka_sasl_password"),
            "SASL_SSL or SASL_PLAINTEXT",
        )
        self._check_unused(
            protocol.endswith("SSL"),
            ("kafka_ssl_ca_file", "kafka_ssl_certificate_file", "kafka_ssl_key_file"),
            "SSL or SASL_SSL",
        )
        if self.kafka_ssl_key_file and not self.kafka_ssl_certificate_file:
            raise ValueError("KAFKA_SSL_KEY_FILE is set: it needs KAFKA_SSL_CERTIFICATE_FILE")
        return self

    def _check_unused(self, used: bool, names: Sequence[str], needed: str) -> None:
        """Raise ValueError for a setting that is given, but has no effect.

        Whoever sets a password or a CA expects them to protect the connection.
        """
        for name in names:
            if getattr(self, name) and not used:
                raise ValueError(
                    f"{name.upper()} is set, but KAFKA_SECURITY_PROTOCOL="
                    f"{self.kafka_security_protocol} does not use it: set {needed}, or unset it"
                )

    @cached_property
    def brokers(self) -> list[str]:
        return [b.strip() for b in self.kafka_bootstrap_servers.split(",") if b.strip()]


class KafkaSettings(KafkaConnection):
    """Kafka: topics and the consumer group."""

    interactions_topic: str = Field("interactions", description="topic the events arrive on")
    dead_letter_topic: str = Field(
        "interactions.dlq", description="topic for events that cannot be counted"
    )
    topic_partitions: int = Field(
        4, ge=1, le=1024, description="partitions of a topic that `migrate` creates"
    )
    topic_replication: int = Field(
        1, ge=1, le=9, description="replication factor of a topic that `migrate` creates"
    )
    consumer_group: str = Field("interaction-summary", description="Kafka group of the workers")
    kafka_session_timeout_s: float = Field(
        10.0, ge=6, le=300, description="a worker silent for this long loses its partitions"
    )
    worker_instance_id: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_.-]{0,128}$",
        description="stable name of this worker (Kafka static membership): after a crash it gets "
        "its partitions back at once; empty = none, unique per worker otherwise",
    )


class RedisSettings(BaseSettings):
    """Redis or Valkey: the store of the counters."""

    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Redis or Valkey")
    redis_cluster: bool = Field(False, description="`REDIS_URL` names one node of a cluster")
    redis_prefix: str = Field(
        "is", pattern=r"^[A-Za-z0-9_.-]{1,32}$", description="first part of every key"
    )
    generation_keep_h: int = Field(
        24,
        ge=0,
        le=10_000,
        description="hours for which replaced counters are kept for a rollback; 0 = drop at the "
        "next check, which is every 5 minutes",
    )
    ranks_kept_days: int = Field(
        7,
        ge=0,
        le=10_000,
        description="days for which the customers' ranks of the day, week and month are kept after "
        "the last question about them; 0 = always kept, whether asked for or not",
    )
    redis_timeout_s: float = Field(
        5.0, gt=0, le=60, description="how long the worker waits for one Redis answer"
    )


class PostgresSettings(BaseSettings):
    """PostgreSQL: the store of history and catalogs."""

    database_url: str = Field(
        "postgresql://postgres@127.0.0.1:5432/postgres",
        description="PostgreSQL of history and catalog",
    )
    history_buffer_events: int = Field(
        200_000,
        ge=1_000,
        description="events counted but not yet in history that a worker holds "
        "before it waits for Postgres",
    )
    history_buffer_bytes: int = Field(
        128 * 1_048_576,
        ge=1_048_576,
        description="the same, in bytes of their records; whichever is reached first",
    )
    history_batch_events: int = Field(
        5_000, ge=1, le=100_000, description="maximum events of one history transaction"
    )


class WorkerSettings(BaseSettings):
    """How workers count, and their limits."""

    commit_batch_events: int = Field(
        200, ge=1, le=2_000, description="maximum events of one commit; keeps the script short"
    )
    dedup_horizon_h: int = Field(
        48, ge=0, le=24 * 31, description="minimum time that an identity is remembered; 0 = off"
    )
    future_tolerance_s: int = Field(
        300, ge=0, le=3600, description="maximum time of an event ahead of the clock"
    )
    event_bytes_max: int = Field(
        1_048_576, ge=1_024, description="a larger event is dead-lettered unparsed"
    )
    id_chars_max: int = Field(
        128, ge=1, le=128, description="an event with a longer id is a dead letter"
    )
    outcome_types_max: int = Field(
        64, ge=0, le=1_000, description="maximum outcome types of a tenant besides the system types"
    )
    catalog_refresh_s: float = Field(
        5.0, gt=0, le=3600, description="age at which a cached catalog is loaded again"
    )
    keys_per_grouping_max: int = Field(
        5_000_000,
        ge=1,
        description="maximum ids per tenant and grouping; events of further ids count as "
        "`__other__`",
    )
    offers_per_customer_max: int = Field(
        2_000,
        ge=1,
        description="maximum distinct offers that are remembered of a customer; beyond it history "
        "answers for customers",
    )
    tenants_max: int = Field(
        10_000,
        ge=1,
        description="tenants that may have counters; events of others are dead letters",
    )
    tenants_registered_only: bool = Field(
        False,
        description="only tenants with a catalog (`catalog import`) are counted; events of others "
        "are dead letters",
    )
    fetch_bytes_max: int = Field(
        4 * 1_048_576,
        ge=1_024,
        description="maximum bytes of one fetch of one partition; a larger record is fetched alone",
    )
    fetch_wait_ms: int = Field(
        40,
        ge=1,
        le=1_500,
        description="how long a fetch waits at the broker for records, and the minimum time "
        "between fetches: shorter is fresher, longer costs less",
    )
    queue_batches: int = Field(
        2,
        ge=1,
        le=64,
        description="a partition is not fetched while this many times `FETCH_BYTES_MAX` of its "
        "records wait to be counted",
    )
    dead_letter_alarm_ratio: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="share of dead letters among the last events above which the alarm is on",
    )
    dead_letter_alarm_window: int = Field(
        10_000, ge=1, description="number of last events that the alarm looks at"
    )
    dead_letter_alarm_min: int = Field(
        20, ge=1, description="minimum dead letters among them for the alarm"
    )
    watchdog_s: float = Field(
        120.0,
        ge=5,
        description="a worker exits if a partition with lag makes no progress for this long",
    )
    audit_every_s: float = Field(
        3_600.0,
        ge=0,
        description="seconds between two audits of a sample of one tenant's counters, by one of "
        "the workers; 0 = none",
    )
    worker_metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="port of the worker's own /metrics, /healthz and /readyz; 0 = none",
    )
    worker_metrics_host: str = Field(
        "127.0.0.1",
        description="address that this port is bound to; `0.0.0.0` in a container. It asks for no "
        "key",
    )
    worker_ready_lag_max: int = Field(
        100_000,
        ge=0,
        description="events of its partitions that may wait while the worker's /readyz says ready",
    )


class ReaderSettings(BaseSettings):
    """The HTTP reader: access, budgets and limits."""

    auth_mode: Literal["keys", "open"] = Field(
        "keys", description="`keys`: API keys; `open`: none, loopback only"
    )
    api_key_pepper: str = Field(
        "",
        description="secret key of the hashes of API keys, at least 32 characters; needed with "
        "`AUTH_MODE=keys`",
    )
    api_key_pepper_previous: str = Field(
        "",
        description="the pepper before, while it is replaced: keys made with it still work",
    )
    api_keys_stale_max_s: float = Field(
        3_600.0,
        ge=5,
        description="how long known API keys are accepted while PostgreSQL, which knows the "
        "revoked ones, is unavailable",
    )
    rate_limit_per_minute: int = Field(
        6_000,
        ge=0,
        le=RATE_LIMIT_MAX,
        description="requests of one API key in a minute, where the key has no limit of its own; "
        "0 = no limit",
    )
    api_ready_lag_max: int = Field(
        0,
        ge=0,
        description="`/readyz` answers 503 while more events than this are not yet counted; 0 = no "
        "limit",
    )
    api_host: str = Field("127.0.0.1", description="address the API binds")
    api_port: int = Field(8000, ge=0, le=65535, description="port the API binds")
    api_cache_mb: int = Field(
        64,
        ge=0,
        le=65_536,
        description="megabytes of answers that each API process keeps, and sends again while the "
        "counters say that they are unchanged; 0 = none",
    )
    read_budget_ms: int = Field(
        250, ge=1, le=10_000, description="a slower counter read falls back to history"
    )
    breaker_failures: int = Field(
        5, ge=1, description="failed counter reads in a row that open the circuit breaker"
    )
    breaker_open_s: float = Field(
        2.0, gt=0, description="how long an open breaker sends reads straight to history"
    )
    fallback_concurrency: int = Field(
        4, ge=1, le=100, description="history queries that may run at once"
    )
    fallback_timeout_ms: int = Field(
        5_000, ge=10, description="statement timeout of a history query"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="minimum level of logged events"
    )
    traces_enabled: bool = Field(
        False,
        description="worker and API send OpenTelemetry traces to `OTEL_EXPORTER_OTLP_ENDPOINT`; "
        "needs the extra `otel`",
    )

    @field_validator("api_key_pepper", "api_key_pepper_previous")
    @classmethod
    def _pepper_is_long(cls, pepper: str) -> str:
        if pepper and len(pepper) < PEPPER_CHARS_MIN:
            raise ValueError(
                f"at least {PEPPER_CHARS_MIN} characters are needed; make one with: {MAKE_PEPPER}"
            )
        return pepper


# Fields are in the order of the bases from last to first.
class Settings(ReaderSettings, WorkerSettings, PostgresSettings, RedisSettings, KafkaSettings):
    """Settings of every command. A test compares the README's table with these fields."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in order: arguments, environment variables, files of secrets."""
        return init_settings, env_settings, SecretFiles(settings_cls, SECRETS)

    def __repr_args__(self) -> Iterator[tuple[str | None, object]]:
        """Yield what `repr` and `str` show: no secret, not even those inside of URLs."""
        for name, value in super().__repr_args__():
            yield name, "…" if name in SECRETS and value else value

    @model_validator(mode="after")
    def _topics_differ(self) -> Self:
        if self.interactions_topic == self.dead_letter_topic:
            raise ValueError("INTERACTIONS_TOPIC and DEAD_LETTER_TOPIC must differ")
        return self
