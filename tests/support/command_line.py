"""The command line as a child process without any server: run it, and check how it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cli

ROOT = Path(cli.__file__).parent.parent
#: Addresses where nothing listens.
NOWHERE = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "DATABASE_URL": "postgresql://127.0.0.1:1/none",
}


def run(
    *arguments: str, stdin: bytes = b"", cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cli.main", *arguments],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **NOWHERE, **environment},
        timeout=60,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def refused(*arguments: str, stdin: bytes = b"", **environment: str) -> str:
    """Run a command that must be refused as bad usage; return its standard error."""
    done = run(*arguments, stdin=stdin, cwd=ROOT, **environment)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def failed(*arguments: str, stdin: bytes = b"", **environment: str) -> str:
    """Run a command that must fail; return its one line of error."""
    done = run(*arguments, stdin=stdin, cwd=ROOT, **environment)
    assert done.returncode == 1, (done.returncode, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line
