"""docker-compose.yml and the Dockerfile, compared with the code that they run, without Docker."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from api.access import check_startup
from store.secret_files import SUFFIX
from store.settings import SECRETS, Settings
from tests.support.services import containers

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def settings_of(service: str, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the settings of this service, which has its secrets in the folder `secrets`."""
    for name, value in SERVICES[service]["environment"].items():
        monkeypatch.setenv(name, value.replace("/run/secrets", str(secrets)))
    return Settings()


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of secrets as `make secrets` makes it."""
    folder = tmp_path_factory.mktemp("secrets") / "secrets"
    make_secrets(folder)
    return folder


def make_secrets(folder: Path) -> dict[str, str]:
    """Run the script, and return the content of the files that are there then."""
    subprocess.run([ROOT / "container/make-secrets", folder], check=True, capture_output=True)
    return {path.name: path.read_text() for path in folder.iterdir()}


def listeners(variable: str) -> dict[str, str]:
    """Return Kafka's listeners, name -> host:port."""
    pairs = SERVICES["kafka"]["environment"][variable].split(",")
    return dict(pair.split("://") for pair in pairs)


def healthcheck() -> dict[str, Any]:
    """Return the functions of the image's health check, which is not in a package."""
    return runpy.run_path(str(ROOT / "container/healthcheck.py"))


def instructions(name: str) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in DOCKERFILE.splitlines() if line.startswith(name)]


def test_the_services_are_those_that_the_readme_names() -> None:
    assert set(SERVICES) == {"kafka", "redis", "postgres", "migrate", "worker", "api"}
    assert set(OURS) == {"migrate", "worker", "api"}


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_with_a_valid_value(
    name: str, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = SERVICES[name]["environment"]
    known = {field.upper() for field in Settings.model_fields}
    files = {secret.upper() + SUFFIX for secret in SECRETS}
    assert set(environment) <= known | files
    assert all(isinstance(value, str) for value in environment.values())
    settings_of(name, secrets, monkeypatch)  # raises if a value is not valid


@pytest.mark.parametrize("name", OURS)
def test_every_command_and_its_options_exist(name: str) -> None:
    from cli.main import app

    group = get_command(app)
    first, *rest = SERVICES[name]["command"]
    assert first in group.commands  # type: ignore[attr-defined]
    group.commands[first].make_context(first, rest)  # type: ignore[attr-defined]  # exits if not


@pytest.mark.parametrize("name", OURS)
def test_our_services_use_the_stores_in_the_network_and_the_secrets(
    name: str, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(name, secrets, monkeypatch)
    assert settings.brokers == [listeners("KAFKA_ADVERTISED_LISTENERS")["NETWORK"]]
    assert settings.redis_url.startswith("redis://redis:6379/")
    password = (secrets / "postgres_password").read_text().strip()
    assert settings.database_url == f"postgresql://postgres:{password}@postgres:5432/postgres"
    assert settings.api_key_pepper == (secrets / "api_key_pepper").read_text().strip()


def test_the_api_needs_keys_and_is_published_on_the_loopback(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of("api", secrets, monkeypatch)
    assert settings.auth_mode == "keys"
    check_startup(settings, settings.api_host)  # raises if the API would refuse to start
    assert settings.api_host == "0.0.0.0"  # noqa: S104  # all addresses of its container
    assert SERVICES["api"]["ports"] == [f"127.0.0.1:8000:{settings.api_port}"]


def test_every_secret_is_a_file_that_is_made_and_used(secrets: Path) -> None:
    declared = {name: secret["file"] for name, secret in COMPOSE["secrets"].items()}
    assert declared == {path.name: f"./secrets/{path.name}" for path in secrets.iterdir()}
    assert {name for service in SERVICES.values() for name in service.get("secrets", [])} == set(
        declared
    )
    for name, service in SERVICES.items():
        given = {f"/run/secrets/{secret}" for secret in service.get("secrets", [])}
        environment = service.get("environment", {})
        read = {value for variable, value in environment.items() if variable.endswith(SUFFIX)}
        assert given == read, name


def test_no_secret_is_in_a_file_that_is_committed() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "secrets/" in ignored
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            hides = re.search("PASSWORD|PEPPER|DATABASE_URL", variable)
            assert not hides or variable.endswith(SUFFIX), f"{name}: {variable}={value}"


def test_secrets_are_random_private_and_never_replaced(tmp_path: Path) -> None:
    made = make_secrets(tmp_path / "one")
    assert all(re.search(r"[0-9a-f]{64}", secret) for secret in made.values())
    assert make_secrets(tmp_path / "one") == made
    assert not set(made.values()) & set(make_secrets(tmp_path / "two").values())
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "one").iterdir():
        # Nobody else can enter the folder; the containers, which run as another user, get the file.
        assert path.stat().st_mode & 0o777 == 0o444
    (tmp_path / "one" / "postgres_password").unlink()
    with pytest.raises(subprocess.CalledProcessError):  # database_url has the one that is gone
        make_secrets(tmp_path / "one")


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_no_privileges(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    (workdir,) = [folder for folder in instructions("WORKDIR") if folder != "/src"]
    assert [folder.partition(":")[0] for folder in service["tmpfs"]] == [workdir]


@pytest.mark.parametrize(
    ("command_line", "environment", "url"),
    [
        ("python /opt/bin/interaction-summary api", {}, "http://127.0.0.1:8000/healthz"),
        (
            "/sbin/docker-init -- interaction-summary api --workers 2",
            {"API_PORT": "81"},
            "http://127.0.0.1:81/healthz",
        ),
        ("interaction-summary worker", {"WORKER_METRICS_PORT": "9"}, "http://127.0.0.1:9/healthz"),
        ("interaction-summary worker", {}, None),
        ("interaction-summary catalog import api", {}, None),
        ("interaction-summary", {}, None),
        ("sleep worker", {"WORKER_METRICS_PORT": "9"}, None),
    ],
)
def test_the_health_check_asks_what_the_command_answers(
    command_line: str, environment: dict[str, str], url: str | None
) -> None:
    assert healthcheck()["url_of"](command_line.split(), environment) == url


def test_the_health_check_can_ask_every_long_running_service() -> None:
    for name in OURS:
        service = SERVICES[name]
        command_line = [*yaml.safe_load(instructions("ENTRYPOINT")[0]), *service["command"]]
        url = healthcheck()["url_of"](command_line, service["environment"])
        assert (url is None) == (name == "migrate"), name


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
                    pytest.fail(f"{name} waits for {other}: {condition}")


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
    for image in instructions("FROM"):
        assert re.match(r"python:\d+\.\d+\.\d+-", image), image
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
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)  # by number: Kubernetes checks it
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


def test_the_image_says_its_name_and_version() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="(.*?)"', DOCKERFILE))
    assert labels["title"] == PROJECT["name"]
    assert labels["version"] == PROJECT["version"]


def test_the_image_has_a_python_that_the_project_supports() -> None:
    minimum = tuple(int(n) for n in PROJECT["requires-python"].removeprefix(">=").split("."))
    for image in instructions("FROM"):
        found = re.match(r"python:(\d+)\.(\d+)\.", image)
        assert found is not None
        assert (int(found[1]), int(found[2])) >= minimum
