"""The settings class. Every value comes from the environment variable of the field's name."""

from __future__ import annotations

from functools import cached_property
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


class Settings(BaseSettings):
    """Settings of every command. A test compares the README's table with these fields."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    # --- Kafka
    kafka_bootstrap_servers: str = Field(
        "127.0.0.1:9092", description="Kafka brokers, `host:port`, comma separated"
    )
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

    # --- Redis
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
    redis_timeout_s: float = Field(
        5.0, gt=0, le=60, description="how long the worker waits for one Redis answer"
    )

    # --- Postgres
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

    # --- counting
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
        0, ge=0, le=65535, description="port of the worker's own /metrics; 0 = none"
    )

    # --- reader
    auth_mode: Literal["keys", "open"] = Field(
        "keys", description="`keys`: API keys; `open`: none, loopback only"
    )
    api_key_pepper: str = Field("", description="secret key of the API key hashes")
    api_host: str = Field("127.0.0.1", description="address the API binds")
    api_port: int = Field(8000, ge=0, le=65535, description="port the API binds")
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

    @model_validator(mode="after")
    def _topics_differ(self) -> Self:
        if self.interactions_topic == self.dead_letter_topic:
            raise ValueError("INTERACTIONS_TOPIC and DEAD_LETTER_TOPIC must differ")
        return self

    @cached_property
    def brokers(self) -> list[str]:
        return [b.strip() for b in self.kafka_bootstrap_servers.split(",") if b.strip()]
