"""docker-compose.yml on a Docker engine, as a user runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from store.records import GROUPINGS
from tests.support.compose import Compose, open_compose, service_of
from tests.support.waiting import eventually

EVENTS, CUSTOMERS, MALFORMED = 2_000, 40, 7
OURS = ("migrate", "worker", "api")
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    with open_compose(tmp_path_factory.mktemp("compose")) as opened:
        opened.up(workers=2)
        yield opened


def ask(compose: Compose, grouping: str, key: str | None) -> httpx.Response:
    return httpx.get(
        f"http://127.0.0.1:{compose.port}/api/v1/interaction-summary",
        params={"groupBy": grouping, "days": 1, "limit": 500},
        headers={"X-API-Key": key} if key else {},
        timeout=10,
    )


def counted(compose: Compose, key: str) -> dict[str, int]:
    """Return grouping -> events that the counters have today, over all groups."""
    found: dict[str, int] = {}
    for grouping in GROUPINGS:
        answer = ask(compose, grouping, key)
        assert answer.status_code == 200, answer.text
        assert answer.headers["X-Summary-Source"] == "materialized"
        found[grouping] = sum(row["total"] for row in answer.json()["summary"])
    return found


def assert_counted(compose: Compose, key: str, events: int) -> None:
    def all_counted() -> bool:
        assert counted(compose, key) == dict.fromkeys(GROUPINGS, events)
        return True

    eventually(all_counted, message=f"{events} events in each grouping")


def test_events_are_counted_by_two_workers_and_kept_over_a_stop(compose: Compose) -> None:
    """Nobody reads them without a key."""
    key = compose.program("keys", "create", "--tenant", "acme", "--role", "viewer").strip()
    assert key.startswith("krn_")
    other = compose.program("keys", "create", "--tenant", "other").strip()
    load = ("run", "--rm", "--no-deps", "--no-TTY", "worker", "load")
    synthetic = ("--tenant", "acme", "--customers", str(CUSTOMERS))
    compose.run(*load, *synthetic, "--events", str(EVENTS))
    assert_counted(compose, key, EVENTS)
    for grouping in GROUPINGS:
        assert ask(compose, grouping, None).status_code == 401
        assert ask(compose, grouping, key[:-1] + "!").status_code == 401
        assert ask(compose, grouping, other).json()["total"] == 0

    # Dead letters are sent in transactions, for which the broker must reach itself.
    compose.run(*load, *synthetic, "--events", str(MALFORMED), "--malformed", "1")

    def dead_letters() -> bool:
        total = json.loads(compose.program("dlq", "list", "--json"))["total"]
        assert total <= MALFORMED
        return bool(total == MALFORMED)

    eventually(dead_letters, message=f"{MALFORMED} dead letters")

    assigned = [
        line
        for line in compose.run("logs", "--no-color", "worker").splitlines()
        if '"partitions assigned"' in line
    ]
    assert {line.split()[0].rpartition("-")[2] for line in assigned} == {"1", "2"}

    compose.run("stop")
    ended = {
        (service_of(container), container["State"]["ExitCode"], container["State"]["OOMKilled"])
        for container in compose.containers()
    }
    # A Java program that SIGTERM has ended in order exits with 128 + 15.
    codes = {"kafka": 143, **dict.fromkeys(("redis", "postgres", *OURS), 0)}
    assert ended == {(service, code, False) for service, code in codes.items()}

    compose.up(workers=2)
    assert_counted(compose, key, EVENTS)
    compose.run(*load, *synthetic, "--events", "100")
    assert_counted(compose, key, EVENTS + 100)


def test_the_rate_limit_of_a_key_is_counted_in_redis(compose: Compose) -> None:
    key = compose.program("keys", "create", "--tenant", "acme", "--rate-limit", "3").strip()

    def over() -> bool:
        answers = [ask(compose, "action", key) for _ in range(4)]  # a new minute may begin here
        return answers[-1].status_code == 429 and int(answers[-1].headers["Retry-After"]) <= 60

    eventually(over, message="a 429")
    metrics = httpx.get(f"http://127.0.0.1:{compose.port}/metrics", timeout=10).text
    assert "interaction_summary_api_rate_limit_local_total 0.0" in metrics.splitlines()


def test_migrate_succeeds_at_its_first_attempt(compose: Compose) -> None:
    (migrate,) = compose.containers("migrate")
    assert migrate["RestartCount"] == 0
    assert migrate["State"]["ExitCode"] == 0


@pytest.mark.parametrize("service", OURS)
def test_our_containers_have_no_privileges(compose: Compose, service: str) -> None:
    for container in compose.containers(service):
        host: dict[str, Any] = container["HostConfig"]
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert container["Config"]["User"] == "10001:10001"
        secrets = {path.read_text().strip() for path in compose.secrets.iterdir()}
        assert len(secrets) == 3
        shown = str(container["Config"])
        assert not any(secret in shown for secret in secrets), "a secret in `docker inspect`"


def test_a_process_in_our_containers_can_change_nothing(compose: Compose) -> None:
    script = """\
        test "$(id -u)" = 10001 || echo "runs as $(id -u)"
        grep -q '^CapEff:\t0*$' /proc/1/status || echo "process 1 has capabilities"
        grep -q '^NoNewPrivs:\t1$' /proc/1/status || echo "process 1 can get privileges"
        for folder in / /opt/interaction-summary /usr/local/bin /etc /var/tmp /home; do
            if (: >$folder/written) 2>/dev/null; then echo "$folder can be written"; fi
        done
        (: >/tmp/written) || echo "/tmp cannot be written"
        for tool in gcc cc make ld pip pip3; do
            if command -v $tool; then echo "in the image"; fi
        done
        """
    assert compose.run("exec", "--no-TTY", "api", "sh", "-c", script) == ""


def test_an_api_that_does_not_answer_becomes_unhealthy(compose: Compose) -> None:
    def status() -> str:
        (api,) = compose.containers("api")
        return str(api["State"]["Health"]["Status"])

    (api,) = compose.containers("api")
    # The first process of the container's process namespace cannot be stopped from inside.
    subprocess.run(["docker", "kill", "--signal=STOP", api["Id"]], check=True)
    try:
        eventually(lambda: status() == "unhealthy", message="unhealthy")
    finally:
        subprocess.run(["docker", "kill", "--signal=CONT", api["Id"]], check=True)
    eventually(lambda: status() == "healthy", message="healthy again")


def test_without_secrets_nothing_starts(tmp_path: Path) -> None:
    compose = Compose(tmp_path)
    (compose.secrets / "postgres_password").unlink()
    try:
        with pytest.raises(subprocess.CalledProcessError) as failed:
            compose.run("up", "--detach", "--no-build", "--pull=never", "postgres")
        assert f"{compose.secrets}/postgres_password" in failed.value.stderr
        assert compose.run("ps", "--quiet") == ""
    finally:
        compose.run("down", "--volumes", check=False)
