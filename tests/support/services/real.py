"""The servers of production without Docker: Apache Kafka's jars, Debian's Redis and PostgreSQL.

A missing program raises StackError. It is never a reason to skip a test.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from cli.embedded.programs import find_program, run
from cli.embedded.server import HOST, StackError, TcpServer, free_port
from cli.embedded.servers import kafka_answers
from tests.support.services.base import Faults, Services
from tests.support.services.tcp import TcpPostgres, TcpValkey

ROOT = Path(__file__).resolve().parents[3]
POM = Path(__file__).parent / "kafka" / "pom.xml"
_CLUSTER_ID = "aW50ZXJhY3Rpb24tc3VtbQ"  # any 16 bytes, in base64 as Kafka writes them
_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# A killed broker can register again only when its last session has ended: 9 s by default.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
# Tests send records of fixed days. The default deletes them a week after that day: 30 s after the
# start, and every 5 min from then on.
log.retention.ms=-1
"""


class RealKafka(Faults, TcpServer):
    """Apache Kafka, one node that is broker and controller (KRaft)."""

    name: ClassVar[str] = "kafka"
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, folder: Path, jars: Path) -> None:
        super().__init__(None, folder / "kafka.log")
        self._jars = jars
        self._controller_port = free_port()
        self._data = folder / "kafka"
        self._settings = folder / "server.properties"

    @property
    def bootstrap(self) -> str:
        return self.address

    @property
    def data_folder(self) -> Path:
        return self._data

    def _java(self, *arguments: str) -> list[str]:
        java = needed("java", "openjdk-17-jre-headless")
        memory = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC")
        return [str(java), *memory, "-cp", f"{self._jars}/*", *arguments]

    def _prepare(self) -> None:
        if self._data.exists():
            return
        self._settings.write_text(self._properties())
        format_ = ("kafka.tools.StorageTool", "format", "--cluster-id", _CLUSTER_ID, "--config")
        command = self._java(*format_, str(self._settings), *self._format_options())
        run(command, "formatting Kafka's storage")

    def _properties(self) -> str:
        """Return the contents of `server.properties`; later lines replace earlier ones."""
        return _SETTINGS.format(
            host=HOST, port=self.port, controller_port=self._controller_port, data=self._data
        )

    def _format_options(self) -> Sequence[str]:
        return ()

    def _command(self) -> list[str]:
        return self._java("kafka.Kafka", str(self._settings))

    def _answers(self) -> bool:
        return kafka_answers(self.port)


class RealRedis(Faults, TcpValkey):
    name: ClassVar[str] = "redis"


class RealPostgres(Faults, TcpPostgres):
    pass


def services(folder: Path, *, durable: bool = False) -> Services:
    """Return the servers, not yet started; `durable`: whether PostgreSQL waits for the disk."""
    return Services(
        "real",
        RealKafka(folder, kafka_jars()),
        RealRedis(None, folder, program=needed("redis-server", "redis-server")),
        RealPostgres(folder, None, durable=durable, programs=postgres_programs()),
    )


def kafka_jars() -> Path:
    """Return the folder of Kafka's jars: KAFKA_JARS, or one that Maven fills at the first call."""
    given = os.environ.get("KAFKA_JARS")
    jars = Path(given).absolute() if given else ROOT / ".ci-work" / "kafka-jars"
    wanted = f"kafka_2.13-{kafka_version()}.jar"
    if (jars / wanted).exists():
        return jars
    if given:
        raise StackError(f"kafka: KAFKA_JARS={given} has no {wanted}")
    mvn = needed("mvn", "maven")
    copy = ("-B", "-q", "-f", POM, "dependency:copy-dependencies", f"-DoutputDirectory={jars}")
    run([mvn, *copy], "fetching Kafka's jars", timeout_s=600)
    if not (jars / wanted).exists():
        raise StackError(f"kafka: Maven succeeded, but {jars / wanted} is missing")
    return jars


def kafka_version() -> str:
    found = re.search(r"<kafka.version>(.+)</kafka.version>", POM.read_text())
    assert found is not None, f"no kafka.version in {POM}"
    return found[1]


def postgres_programs() -> Path:
    """Return the programs' folder of the newest PostgreSQL of Debian's packages."""
    folders = [p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if not folders:
        raise StackError("postgres: not installed; apt-get install postgresql")
    return max(folders, key=lambda folder: float(folder.parent.name))


def needed(program: str, package: str) -> Path:
    found = find_program(program, "/usr/bin", "/usr/sbin")
    if found is None:
        raise StackError(f"{program}: not installed; apt-get install {package}")
    return found
