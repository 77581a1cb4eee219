"""The command line: help, usage errors and failures, without any server."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import ROOT, failed, refused, run

COMMANDS = ("up", "migrate", "worker", "api", "catalog", "load", "audit", "keys", "status")


def test_help_lists_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert f" {command} " in done.stdout


@pytest.mark.parametrize("command", [*COMMANDS, "catalog import", "catalog export"])
def test_every_command_has_help(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert done.stderr == ""


def test_help_needs_no_settings_and_none_of_the_heavy_libraries() -> None:
    heavy = {"faust", "aiokafka", "kafka", "fastapi", "psycopg", "redis", "pydantic"}
    code = f"import sys, cli.main; sys.exit(str({heavy} & set(sys.modules) or 0))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == "0\n"
    assert run("--help", EVENT_BYTES_MAX="many").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["status", "--nonsense"],
        ["migrate", "surplus"],
        ["catalog", "import"],
        ["api", "--port", "70000"],
        ["api", "--workers", "0"],
        ["up", "--port", "-1"],
        ["load", "--rate", "0"],
        ["load", "--events", "-1"],
        ["load", "--customers", "0"],
        ["load", "--duplicates", "1.5"],
        ["load", "--malformed", "-0.1"],
        ["load", "--late", "much"],
        ["load", "--duplicates", "0.6", "--malformed", "0.6"],
        ["load", "--shift-to-now"],
        ["load", "--days", "3", "--events", "0"],
        ["load", "--tenant", "a b"],
        ["load", "--seed", "1", "some.jsonl"],
        ["load", "--late", "0", "-"],
        ["tenants", "remove", "acme"],
        ["tenants", "remove", "a b", "--yes"],
    ],
    ids=" ".join,
)
def test_bad_usage(arguments: list[str]) -> None:
    stderr = refused(*arguments)
    assert any(part.strip("-") in stderr for part in arguments)


@pytest.mark.parametrize(
    "command", ["migrate", "worker", "api", "load", "status", "catalog export"]
)
def test_a_bad_setting_is_named_with_what_is_allowed(command: str) -> None:
    stderr = refused(*command.split(), EVENT_BYTES_MAX="many")
    assert stderr.startswith("error: EVENT_BYTES_MAX='many': ")
    assert "valid integer" in stderr


def test_several_bad_settings_are_all_named_in_one_line() -> None:
    (line,) = refused("status", AUTH_MODE="none", TOPIC_PARTITIONS="0").splitlines()
    assert "AUTH_MODE='none': Input should be 'keys' or 'open'" in line
    assert "TOPIC_PARTITIONS='0': Input should be greater than or equal to 1" in line


def test_topics_must_differ() -> None:
    stderr = refused("migrate", INTERACTIONS_TOPIC="t", DEAD_LETTER_TOPIC="t")
    assert stderr == "error: INTERACTIONS_TOPIC and DEAD_LETTER_TOPIC must differ\n"


def test_a_kafka_that_is_away_is_a_failure() -> None:
    assert failed("load", "-", stdin=b"{}\n").startswith("error: Kafka: ")


def test_a_postgres_that_is_away_is_a_failure() -> None:
    assert failed("catalog", "export").startswith("error: Postgres: ")


def test_status_names_every_store_that_is_away_and_still_answers() -> None:
    import msgspec

    done = run("status", "--json")
    assert done.returncode == 1
    state = msgspec.json.decode(done.stdout)
    assert set(state["errors"]) == {"kafka", "redis", "postgres"}
    assert state["lag"] is None
    (line,) = done.stderr.splitlines()
    for store in ("Kafka: ", "Redis: ", "Postgres: "):
        assert store in line


def test_a_traceback_comes_only_when_asked_for() -> None:
    done = run("catalog", "export", LOG_LEVEL="DEBUG")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: Postgres: ")


@pytest.mark.parametrize("command", [["load"], ["catalog", "import"]])
def test_a_file_that_is_not_there(command: list[str]) -> None:
    assert failed(*command, "/nowhere/at/all") in (
        "error: /nowhere/at/all: No such file or directory",
    )


def test_a_catalog_that_is_none_is_refused_before_postgres_is_asked() -> None:
    line = failed("catalog", "import", "-", stdin=b'{"tenant": "a b"}')
    assert line == "error: tenant: expected 1 to 64 characters of A-Z a-z 0-9 _ . -"


def test_up_does_not_take_a_port_from_another(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = failed("up", "--port", str(port), "--data-dir", str(tmp_path / "data"))
    assert line == f"error: port {port} of 127.0.0.1 is in use; choose another with --port"
    assert not (tmp_path / "data").exists()


def test_modules_of_the_current_folder_are_not_ours(tmp_path: Path) -> None:
    for name in ("store", "streams", "cli"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(99)")
    assert run("--help", cwd=tmp_path).returncode == 0
