"""docker-compose.yml and the Dockerfile, compared with the code that they run, without Docker."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from store.settings import LOOPBACK_HOSTS, Settings
from tests.support.services import containers

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def settings_of(service: str) -> Settings:
    """Return the settings in the environment of this service."""
    return Settings(**{k.lower(): v for k, v in SERVICES[service]["environment"].items()})


def listeners(variable: str) -> dict[str, str]:
    """Return Kafka's listeners, name -> host:port."""
    pairs = SERVICES["kafka"]["environment"][variable].split(",")
    return dict(pair.split("://") for pair in pairs)


def instructions(name: str) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in DOCKERFILE.splitlines() if line.startswith(name)]


def test_the_services_are_those_that_the_readme_names() -> None:
    assert set(SERVICES) == {"kafka", "redis", "postgres", "migrate", "worker", "api", "door"}
    assert set(OURS) == {"migrate", "worker", "api"}


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_with_a_valid_value(name: str) -> None:
    environment = SERVICES[name]["environment"]
    known = {field.upper() for field in Settings.model_fields}
    assert set(environment) <= known
    assert all(isinstance(value, str) for value in environment.values())
    settings_of(name)  # raises if a value is not valid


@pytest.mark.parametrize("name", OURS)
def test_every_command_and_its_options_exist(name: str) -> None:
    from cli.main import app

    group = get_command(app)
    first, *rest = SERVICES[name]["command"]
    assert first in group.commands  # type: ignore[attr-defined]
    group.commands[first].make_context(first, rest)  # type: ignore[attr-defined]  # exits if not


@pytest.mark.parametrize("name", OURS)
def test_our_services_use_the_names_of_the_stores_in_the_network(name: str) -> None:
    settings = settings_of(name)
    assert settings.brokers == [listeners("KAFKA_ADVERTISED_LISTENERS")["NETWORK"]]
    assert settings.redis_url.startswith("redis://redis:6379/")
    password = SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]
    assert settings.database_url == f"postgresql://postgres:{password}@postgres:5432/postgres"


def test_an_api_without_keys_binds_the_loopback_and_is_published_on_the_loopback_only() -> None:
    settings = settings_of("api")
    assert settings.auth_mode == "open"
    assert settings.api_host in LOOPBACK_HOSTS
    assert SERVICES["api"]["network_mode"] == "service:door"
    assert "ports" not in SERVICES["api"]
    listen, connect = SERVICES["door"]["command"]
    assert connect == f"TCP:{settings.api_host}:{settings.api_port}"
    inside = re.match(r"TCP-LISTEN:(\d+),", listen)
    assert inside is not None
    assert SERVICES["door"]["ports"] == [f"127.0.0.1:8000:{inside[1]}"]


def test_the_api_is_healthy_only_if_callers_reach_it() -> None:
    """A proxy that restarts alone leaves the API in the network of its predecessor."""
    listen = SERVICES["door"]["command"][0]
    inside = re.match(r"TCP-LISTEN:(\d+),", listen)
    assert inside is not None
    assert f"http://127.0.0.1:{inside[1]}/healthz" in SERVICES["api"]["healthcheck"]["test"][-1]
    assert SERVICES["api"]["depends_on"]["door"]["restart"] is True


def test_ports_are_published_on_the_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_awaited_condition_can_be_met() -> None:
    for name, service in SERVICES.items():
        for other, wait in service.get("depends_on", {}).items():
            assert other in SERVICES, f"{name} waits for {other}"
            match wait["condition"]:
                case "service_healthy":
                    assert "healthcheck" in SERVICES[other]
                case "service_completed_successfully":
                    assert SERVICES[other]["command"] == ["migrate"]
                    assert SERVICES[other]["restart"].startswith("on-failure")
                case condition:
                    assert condition == "service_started"


def test_stores_are_healthy_before_migrate_and_migrate_is_done_before_the_rest() -> None:
    stores = {"kafka", "redis", "postgres"}
    assert set(SERVICES["migrate"]["depends_on"]) == stores
    for name in ("worker", "api"):
        waits = SERVICES[name]["depends_on"]
        assert stores <= set(waits)
        assert waits["migrate"] == {"condition": "service_completed_successfully"}


def test_every_volume_is_declared_used_and_where_the_image_keeps_its_data() -> None:
    mounts = {
        name: dict(reversed(volume.split(":")) for volume in service["volumes"])
        for name, service in SERVICES.items()
        if "volumes" in service
    }
    assert mounts == {
        "kafka": {SERVICES["kafka"]["environment"]["KAFKA_LOG_DIRS"]: "kafka-data"},
        "redis": {"/data": "redis-data"},
        "postgres": {"/var/lib/postgresql": "postgres-data"},
    }
    assert set(COMPOSE["volumes"]) == {volume for m in mounts.values() for volume in m.values()}


def test_images_are_pinned_and_the_same_as_in_the_tests() -> None:
    images = {name: service["image"] for name, service in SERVICES.items()}
    for image in [*images.values(), *instructions("FROM")]:
        assert re.fullmatch(r"[\w./-]+:\d[\w.-]*( AS build)?", image), image
    assert images["kafka"] == containers.KAFKA_IMAGE
    assert images["redis"] == containers.REDIS_IMAGE
    assert images["postgres"] == containers.POSTGRES_IMAGE
    assert {service["image"] for service in OURS.values()} == {
        f"{PROJECT['name']}:{PROJECT['version']}"
    }


def test_kafka_has_all_its_settings_and_its_check_uses_the_network_listener() -> None:
    environment = SERVICES["kafka"]["environment"]
    assert all(isinstance(value, str) for value in environment.values())
    assert environment["KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR"] == "1"
    bound, advertised = listeners("KAFKA_LISTENERS"), listeners("KAFKA_ADVERTISED_LISTENERS")
    assert set(bound) - set(advertised) == {environment["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    for name, address in advertised.items():
        assert bound[name].rpartition(":")[2] == address.rpartition(":")[2]
    security = dict(
        pair.split(":") for pair in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    )
    assert set(security) == set(bound)
    assert SERVICES["kafka"]["ports"] == [f"{advertised['HOST']}:9092"]
    assert SERVICES["kafka"]["hostname"] == advertised["NETWORK"].partition(":")[0]
    (_, check) = SERVICES["kafka"]["healthcheck"]["test"]
    assert f"--bootstrap-server {advertised['NETWORK']} " in check


@pytest.mark.parametrize(
    ("printed", "healthy"),
    [
        ("kafka:19092 (id: 1 rack: null isFenced: false) -> (", True),
        ("kafka:19092 (id: 1 rack: null isFenced: false) -> ERROR: disconnected", False),
        ("[Producer] Connection to node -1 (kafka/172.18.0.2:19092) could not be made.", False),
        ("", False),
    ],
)
def test_kafkas_healthcheck_looks_at_what_the_tool_prints(printed: str, healthy: bool) -> None:
    (_, check) = SERVICES["kafka"]["healthcheck"]["test"]
    tool, _, judge = check.partition(" | ")
    assert tool.startswith("/opt/kafka/bin/kafka-broker-api-versions.sh ")
    assert tool.endswith("2>&1")
    judged = subprocess.run(shlex.split(judge), input=printed.encode())
    assert (judged.returncode == 0) is healthy


def test_the_image_starts_our_console_script_as_another_user_than_root() -> None:
    (entry,) = instructions("ENTRYPOINT")
    assert yaml.safe_load(entry) == [next(iter(PROJECT["scripts"]))]
    (user,) = instructions("USER")
    assert user not in ("root", "0")
    assert DOCKERFILE.index("USER ") > DOCKERFILE.rindex("FROM ")


def test_the_image_copies_files_that_exist_and_are_not_ignored() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    copied = {
        source
        for copy in instructions("COPY")
        if not copy.startswith("--from=")
        for source in copy.split()[:-1]
    }
    assert copied == let_in
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_the_image_has_a_python_that_the_project_supports() -> None:
    minimum = tuple(int(n) for n in PROJECT["requires-python"].removeprefix(">=").split("."))
    for image in instructions("FROM"):
        found = re.match(r"python:(\d+)\.(\d+)-", image)
        assert found is not None
        assert (int(found[1]), int(found[2])) >= minimum
