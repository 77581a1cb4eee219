"""What is made before the first run: the copy of our code, environments of Python, and jars."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bench.peers.systems import Kind, System
from bench.servers import ROOT
from tests.support.services.real import needed

PEERS = Path(__file__).parent
REQUIREMENTS = PEERS / "requirements"
JAVA = PEERS / "java"
_COMPLETE = "complete"


class Workspace:
    """Folder with everything that the bench makes; what is made stays for the next time.

    One process at a time may use it: another one gets BlockingIOError.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        # PostgreSQL may have to run as a user of its own.
        self.folder.chmod(0o755)
        self._lock = (self.folder / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @property
    def checkout(self) -> Path:
        """Copy of our code."""
        return self.folder / "checkout"

    def python(self, environment: str) -> Path:
        """Return the interpreter of a peer's environment."""
        return self.folder / "python" / environment / "bin" / "python"

    def jars(self, peer: str) -> Path:
        """Return the folder of a peer's jars."""
        return self.folder / "java" / peer / "lib"

    def classes(self, peer: str) -> Path:
        """Return the folder of a peer's compiled classes."""
        return self.folder / "java" / peer / "classes"

    def java(self, peer: str) -> list[str]:
        """Return the command that starts Java for a peer, without the class."""
        return [
            str(needed("java", "openjdk-17-jre-headless")),
            *("-Xms1g", "-Xmx3g"),
            # Flink serializes collections of the JDK by reflection.
            *("--add-opens=java.base/java.util=ALL-UNNAMED",),
            *("--add-opens=java.base/java.lang=ALL-UNNAMED",),
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
            *("-cp", f"{self.classes(peer)}:{self.jars(peer)}/*"),
        ]


def prepare(workspace: Workspace, systems: Iterable[System], commit: Commit) -> None:
    """Make what these systems need, unless it is there."""
    chosen = list(systems)
    if any(system.kind is Kind.OURS for system in chosen):
        copy_checkout(workspace, commit)
    for environment in sorted({s.environment for s in chosen if s.kind is Kind.PYTHON}):
        make_environment(workspace, environment)
    for peer in sorted({s.environment for s in chosen if s.kind is Kind.JAVA}):
        compile_java(workspace, peer)


class Commit(NamedTuple):
    """The commit that is measured."""

    name: str
    """Its hash."""
    changed: bool
    """Whether the working tree has changes since, which are not measured."""

    def __str__(self) -> str:
        note = "; the working tree had later changes, which were not measured"
        return self.name[:10] + (note if self.changed else "")


def last_commit() -> Commit:
    """Return the last commit of this repository."""
    name = _git("rev-parse", "HEAD").decode().strip()
    # The page of results is written by the bench itself.
    changed = _git("status", "--porcelain", "--", ".", ":!docs/benchmarks.md")
    return Commit(name, bool(changed))


def copy_checkout(workspace: Workspace, commit: Commit) -> None:
    """Copy a commit: the code that is measured must not change during the rounds."""
    shutil.rmtree(workspace.checkout, ignore_errors=True)
    workspace.checkout.mkdir()
    tar = str(needed("tar", "tar"))
    archive = _git("archive", commit.name)
    subprocess.run([tar, "x", "-C", str(workspace.checkout)], input=archive, check=True)


def _git(*arguments: str) -> bytes:
    command = [str(needed("git", "git")), "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout


def make_environment(workspace: Workspace, name: str) -> None:
    """Create an environment of Python from its requirements, or again if they have changed."""
    requirements = REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    python = workspace.python(name)
    home = python.parent.parent
    mark = home / _COMPLETE
    if mark.exists() and mark.read_text() == digest:
        return
    print(f"environment {name}: installing {requirements.relative_to(ROOT)}", flush=True)
    venv.create(home, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(requirements)], check=True)
    mark.write_text(digest)


def compile_java(workspace: Workspace, peer: str) -> None:
    """Fetch the jars of a peer, unless they are there, and compile its classes."""
    pom = JAVA / peer / "pom.xml"
    jars, classes = workspace.jars(peer), workspace.classes(peer)
    digest = hashlib.sha256(pom.read_bytes()).hexdigest()
    mark = jars / _COMPLETE
    if not (mark.exists() and mark.read_text() == digest):
        print(f"jars of {peer}: fetching those of {pom.relative_to(ROOT)}", flush=True)
        shutil.rmtree(jars, ignore_errors=True)
        maven = [str(needed("mvn", "maven")), "-q", "-B", "-f", str(pom)]
        copy = ["dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
        subprocess.run([*maven, *copy], check=True)
        mark.write_text(digest)
    shutil.rmtree(classes, ignore_errors=True)
    sources = [*(JAVA / "common").glob("*.java"), *(JAVA / peer).glob("*.java")]
    javac = [str(needed("javac", "openjdk-17-jdk-headless")), "-Xlint:all,-serial", "-Werror"]
    options = ["-cp", f"{jars}/*", "-d", str(classes)]
    subprocess.run([*javac, *options, *map(str, sources)], check=True)


def compile_all(workspace: Workspace) -> None:
    """Compile the programs of all Java peers."""
    for pom in sorted(JAVA.glob("*/pom.xml")):
        compile_java(workspace, pom.parent.name)


def versions(postgres: str, redis: str, kafka: str) -> dict[str, str]:
    """Return the version of everything that takes part; the servers' are given."""
    found = {"Apache Kafka": kafka, "PostgreSQL": postgres, "Redis or Valkey": redis}
    found["Python"] = sys.version.split()[0]
    java = subprocess.run(
        [str(needed("java", "openjdk-17-jre-headless")), "-version"],
        check=True,
        capture_output=True,
        text=True,
    )
    match = re.search(r'version "([^"]+)"', java.stderr)
    found["Java"] = match[1] if match else "unknown"
    return found | versions_of_peers()


def versions_of_peers() -> dict[str, str]:
    """Return the versions of the peers and of their clients, as their requirements fix them."""
    found: dict[str, str] = {}
    for file in sorted(REQUIREMENTS.glob("*.txt")):
        found |= dict(re.findall(r"^([\w.-]+)(?:\[\w+\])?==(\S+)", file.read_text(), re.M))
    found["kafka-streams"] = _version_in(JAVA / "kafka_streams" / "pom.xml", "kafka-streams")
    found["flink"] = _version_in(JAVA / "flink" / "pom.xml", "flink.version")
    return found


def _version_in(pom: Path, name: str) -> str:
    text = pom.read_text()
    pattern = rf"<{name}>([^<]+)<|<artifactId>{name}</artifactId>\s*<version>([^<]+)<"
    match = re.search(pattern, text)
    assert match is not None, f"{pom} has no version of {name}"
    return match[1] or match[2]


def program_environment() -> dict[str, str]:
    """Return the environment of the peers' programs in Python: they import from our folder."""
    kept = ("PATH", "HOME", "TMPDIR")
    own = {name: os.environ[name] for name in kept if name in os.environ}
    return own | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "LC_ALL": "C.UTF-8"}
