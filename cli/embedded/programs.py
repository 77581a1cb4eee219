"""Programs that the embedded stack starts: where they are, and helpers run to their end."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cli.embedded.server import StackError, server_environment


def run(
    command: Sequence[str | Path],
    what: str,
    user: tuple[int, int] | None = None,
    timeout_s: float = 60.0,
) -> str:
    """Runs a helper program to its end and returns what it printed, errors too. Raises StackError
    with `what` and its output.
    """
    uid, gid = user or (None, None)
    try:
        done = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=server_environment(),
            timeout=timeout_s,
            user=uid,
            group=gid,
            extra_groups=None if user is None else [],
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"{what} failed: {error}") from error
    output = done.stdout.decode(errors="replace").strip()
    if done.returncode:
        raise StackError(f"{what} failed with exit code {done.returncode}\n{output}")
    return output


def find_program(name: str, *folders: str) -> Path | None:
    """A program on PATH, or in one of the folders that a plain user's PATH often lacks."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))
    return Path(found) if found else None


def wheel_file(package: str, inside: str) -> Path:
    """A file or folder that a wheel of the extra `embedded` brings; the package is not imported.
    Raises StackError.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise StackError(f"{package} is not installed: pip install 'interaction-summary[embedded]'")
    return Path(spec.origin).parent / inside
