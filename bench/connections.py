"""Measure the memory of an API process while clients open connections and leave.

    python -m bench.connections [--connections 100000] [--json]

Each client opens a connection, reads one answer or sends nothing, and leaves: AT_ONCE of them at a
time. Printed is the resident memory after each tenth of the connections, and once the keep-alive
time is over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import time
from collections.abc import Sequence
from typing import Any, Final

from api.server import KEEP_ALIVE_S
from bench.freshness import answers
from bench.mixed_load import kept
from bench.reads import prepare
from bench.reads_writer import MADE
from bench.servers import TENANT, Process, servers, wait_until
from cli.embedded.server import free_port

DESCRIPTION, _, DETAILS = (__doc__ or "").partition("\n")
AT_ONCE: Final = 500
REQUEST: Final = (
    f"GET /api/v1/interaction-summary HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Tenant-Id: {TENANT}\r\n\r\n"
).encode()


def visit(port: int, n: int) -> None:
    """Open `n` connections, ask on every second one, and leave."""
    clients = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(n)]
    asking = clients[::2]
    for client in asking:
        client.sendall(REQUEST)
    for client in asking:
        answer = client.recv(65_536)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"a request was answered with {answer[:200]!r}")
    for client in clients:
        client.close()


def measure(connections: int) -> dict[str, Any]:
    """Return the memory in MiB before, after each tenth of the connections, and at the end."""
    with servers(auth_mode="open") as bench:
        asyncio.run(prepare(bench, customers=1_000, events=MADE))
        port = free_port()
        arguments = ["cli.main", "api", "--port", str(port)]
        with Process(arguments, bench.env, bench.folder / "api.log") as process:
            wait_until(lambda: answers(port), process, 30.0, "the API")
            return _measure(port, process.pid, connections)


def _measure(port: int, pid: int, connections: int) -> dict[str, Any]:
    visit(port, AT_ONCE)
    before = kept(pid).rss_mib
    after = []
    began_s = time.monotonic()
    for tenth in range(10):
        for at in range(tenth * connections // 10, (tenth + 1) * connections // 10, AT_ONCE):
            visit(port, min(AT_ONCE, (tenth + 1) * connections // 10 - at))
        after.append(kept(pid).rss_mib)
    took_s = time.monotonic() - began_s
    time.sleep(KEEP_ALIVE_S + 5)
    visit(port, 10)  # what the event loop does at its next turn
    return {"before": before, "after": after, "at_end": kept(pid).rss_mib, "took_s": took_s}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.connections", description=DESCRIPTION, epilog=DETAILS
    )
    parser.add_argument("--connections", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found = measure(options.connections)
    if options.json:
        print(json.dumps(found))
        return
    grown = (found["after"][-1] - found["before"]) * 2**20 / options.connections
    print(
        f"{options.connections:,} connections in {found['took_s']:.0f} s: "
        f"{found['before']:.1f} MiB before; after each tenth "
        f"{', '.join(f'{mib:.1f}' for mib in found['after'])}; "
        f"{KEEP_ALIVE_S + 5} s later {found['at_end']:.1f} MiB; "
        f"{grown:.0f} bytes per connection"
    )


if __name__ == "__main__":
    main()
