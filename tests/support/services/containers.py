"""Servers in containers, by testcontainers: the images that docker-compose.yml runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import docker
from docker.errors import DockerException, NotFound
from testcontainers.community.postgres import PostgresContainer
from testcontainers.community.redis import RedisContainer
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from cli.embedded.server import HOST, free_port
from cli.embedded.servers import kafka_answers
from tests.support.services.base import Services

KAFKA_IMAGE = "apache/kafka:4.1.0"
REDIS_IMAGE = "redis:8"
POSTGRES_IMAGE = "postgres:18"
_READY_S = 120


def engine_answers() -> bool:
    """Return whether a Docker engine of this machine answers.

    An engine on another machine does not count: the tests connect to the loopback.
    """
    try:
        client = docker.from_env(timeout=5)
    except DockerException:
        return False
    with contextlib.closing(client):
        try:
            here = client.api.base_url.startswith(("http+docker://", "http://localhost"))
            return here and bool(client.ping())
        except Exception:
            return False


class KafkaContainer(DockerContainer):
    """Container of apache/kafka, one node that is broker and controller (KRaft).

    testcontainers' own class supports only Confluent's image. If one setting is given to the image,
    it drops all of its defaults, so all settings that are needed are given here. The host port is
    fixed beforehand, because Kafka tells its clients its address.
    """

    PORT = 9092

    def __init__(self, host_port: int) -> None:
        super().__init__(KAFKA_IMAGE)
        self.with_bind_ports(self.PORT, host_port)
        self.with_env("CLUSTER_ID", "aW50ZXJhY3Rpb24tc3VtbQ")  # any 16 bytes, in base64
        for name, value in {
            "NODE_ID": "1",
            "PROCESS_ROLES": "broker,controller",
            # The broker is its own client too: it asks itself about each transaction. The address
            # for clients on the host leads nowhere inside the container, so it has another one, and
            # without that every transactional send fails with NotEnoughReplicas, without end.
            "LISTENERS": f"HOST://:{self.PORT},BROKER://localhost:9094,CONTROLLER://localhost:9093",
            "ADVERTISED_LISTENERS": f"HOST://{HOST}:{host_port},BROKER://localhost:9094",
            "INTER_BROKER_LISTENER_NAME": "BROKER",
            "LISTENER_SECURITY_PROTOCOL_MAP": (
                "HOST:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT"
            ),
            "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
            "AUTO_CREATE_TOPICS_ENABLE": "false",
            "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
            "OFFSETS_TOPIC_NUM_PARTITIONS": "4",
            "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
            "TRANSACTION_STATE_LOG_MIN_ISR": "1",
            "SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
            "SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
            "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
            # A killed broker registers again only when its last session has ended: 9 s by default.
            "BROKER_SESSION_TIMEOUT_MS": "4000",
            "BROKER_HEARTBEAT_INTERVAL_MS": "500",
            # Tests send records of fixed days. The default deletes them a week after that day.
            "LOG_RETENTION_MS": "-1",
        }.items():
            self.with_env(f"KAFKA_{name}", value)
        self.waiting_for(
            LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(_READY_S)
        )


class Contained:
    """A container as a Service.

    The container is created at the first start. Later starts use the same container, with its data
    and its port.
    """

    def __init__(self, name: str, container: DockerContainer, answers: Callable[[], bool]) -> None:
        self.name = name
        self._container = container
        self._answers = answers
        self._made = False

    def start(self) -> None:
        if self._made:
            self._container.get_wrapped_container().start()
        else:
            self._made = True
            self._container.start()
        deadline = time.monotonic() + _READY_S
        while not self._ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} does not answer, {_READY_S} s after its start")
            time.sleep(0.1)

    def stop(self) -> None:
        self.resume()
        with contextlib.suppress(NotFound):
            self._container.get_wrapped_container().stop(timeout=30)

    def kill(self) -> None:
        self._container.get_wrapped_container().kill("SIGKILL")
        self._container.get_wrapped_container().wait()

    def pause(self) -> None:
        self._container.get_wrapped_container().pause()

    def resume(self) -> None:
        if self._made and self._status() == "paused":
            self._container.get_wrapped_container().unpause()

    def alive(self) -> bool:
        return self._made and self._status() in ("running", "paused")

    def remove(self) -> None:
        """Remove the container and its data."""
        if self._made:
            self._container.stop()

    def _status(self) -> str:
        self._container.reload()
        return self._container.status

    def _ready(self) -> bool:
        try:
            return self._answers()
        except Exception:  # each client raises another one while the server starts
            return False


class DockerKafka(Contained):
    def __init__(self) -> None:
        port = free_port()
        super().__init__("kafka", KafkaContainer(port), lambda: kafka_answers(port))
        self.bootstrap = f"{HOST}:{port}"


class DockerRedis(Contained):
    def __init__(self) -> None:
        port = free_port()
        container = RedisContainer(REDIS_IMAGE).with_bind_ports(6379, port)
        container.with_command("redis-server --appendonly yes --maxmemory-policy noeviction")
        super().__init__("redis", container, lambda: bool(container.get_client().ping()))
        self.url = f"redis://{HOST}:{port}/0"


class DockerPostgres(Contained):
    def __init__(self) -> None:
        port = free_port()
        container = PostgresContainer(
            POSTGRES_IMAGE, username="postgres", password="test", dbname="postgres", driver=None
        ).with_bind_ports(5432, port)
        # As on the host: few tests need what a crash of the machine would lose.
        container.with_command("postgres -c fsync=off")
        url = f"postgresql://postgres:test@{HOST}:{port}/postgres"
        super().__init__("postgres", container, lambda: _selects(url))
        self.url = url


def _selects(url: str) -> bool:
    import psycopg

    with psycopg.connect(url, connect_timeout=2) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


def services() -> Services:
    return Services("docker", DockerKafka(), DockerRedis(), DockerPostgres())
