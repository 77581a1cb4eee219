"""A project of docker-compose.yml that runs beside others: own name, port, secrets and volumes."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cli.embedded.server import HOST, free_port
from tests.support.waiting import eventually

ROOT: Final = Path(__file__).resolve().parents[2]
#: The image builds with the network of the host, since that of an engine in a container or behind a
#: proxy may lead nowhere. Kafka is published on a fixed port, which may be in use.
_OVERRIDE: Final = """\
services:
  kafka: {{ ports: !reset [] }}
  migrate: {{ build: {{ network: host }} }}
  worker: {{ build: {{ network: host }} }}
  api: {{ build: {{ network: host }}, ports: !override ["{host}:{port}:8000"] }}
secrets:
  api_key_pepper: {{ file: {secrets}/api_key_pepper }}
  postgres_password: {{ file: {secrets}/postgres_password }}
  database_url: {{ file: {secrets}/database_url }}
"""
_COMMAND_TIMEOUT_S: Final = 420


class Compose:
    """One project. Every method raises CalledProcessError if its command fails."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.secrets = folder / "secrets"
        self._override = folder / "override.yml"
        self._name = f"interaction-summary-{uuid.uuid4().hex[:8]}"
        subprocess.run([ROOT / "container/make-secrets", self.secrets], check=True)
        self._override.write_text(
            _OVERRIDE.format(host=HOST, port=self.port, secrets=self.secrets), encoding="utf-8"
        )

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run `docker compose` with these arguments; return its standard output."""
        files = ("-f", str(ROOT / "docker-compose.yml"), "-f", str(self._override))
        command = ("docker", "compose", "-p", self._name, *files, *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S)
        if check and done.returncode:
            error = subprocess.CalledProcessError(
                done.returncode, command, done.stdout, done.stderr
            )
            error.add_note(done.stderr)
            error.add_note(self.run("logs", "--no-color", "--tail=30", check=False))
            raise error
        return done.stdout

    def program(self, *arguments: str) -> str:
        """Run the program with these arguments in the API's container; return what it prints."""
        return self.run("exec", "--no-TTY", "api", "interaction-summary", *arguments)

    def up(self, workers: int) -> None:
        """Start all, and return when every health check is green and `migrate` has succeeded."""
        self.run("up", "--detach", "--no-build", "--scale", f"worker={workers}")
        eventually(lambda: self._is_up(workers), message="all healthy")

    def _is_up(self, workers: int) -> bool:
        states: dict[str, list[str]] = {}
        for container in self.containers():
            state = container["State"]
            health = state["Health"]["Status"] if state["Status"] == "running" else "exited"
            states.setdefault(service_of(container), []).append(health)
        assert states == {
            "kafka": ["healthy"],
            "redis": ["healthy"],
            "postgres": ["healthy"],
            "migrate": ["exited"],
            "worker": ["healthy"] * workers,
            "api": ["healthy"],
        }
        return True

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """Return what the engine knows of the containers of these services, or of all."""
        ids = self.run("ps", "--all", "--quiet", *services).split()
        found: list[dict[str, Any]] = json.loads(
            subprocess.run(
                ["docker", "inspect", *ids], check=True, stdout=subprocess.PIPE, text=True
            ).stdout
        )
        return found


def service_of(container: dict[str, Any]) -> str:
    return str(container["Config"]["Labels"]["com.docker.compose.service"])


@contextmanager
def open_compose(folder: Path) -> Iterator[Compose]:
    """Build the images, and remove the project with its data at the end."""
    compose = Compose(folder)
    try:
        compose.run("build", "--quiet")
        yield compose
    finally:
        compose.run("down", "--volumes", "--timeout", "5", check=False)
