"""Programs of the embedded stack: their location, and helper programs run to completion."""

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
    """Run a helper program to completion and return its output, standard error included.

    `what` names the step in errors; `user` is (uid, gid). Raises StackError with the output.
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
    """Return the path of a program on PATH or in `folders`, which a user's PATH often lacks."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))
    return Path(found) if found else None


def wheel_file(package: str, inside: str) -> Path:
    """Return the path of a file or folder in a wheel of the extra `embedded`.

    The package is not imported. Raises StackError if it is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise StackError(f"{package} is not installed: pip install 'interaction-summary[embedded]'")
    return Path(spec.origin).parent / inside
