"""Becomes a server: `python launch.py PARENT_PID DEATH_SIGNAL UID GID COMMAND…`. Standard library
only, run as a script between us and each server we start.

It exists because what it does has to happen in the new process, before the server: run as another
user, and be told when the parent is gone, however that ended. `subprocess`' hook for that runs
Python between fork and exec, which is not safe in a process with threads; a script is.

UID and GID are -1 to stay who we are. Exit codes: 126 the parent is gone, 127 no such command.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    parent, death_signal, uid, gid = (int(a) for a in arguments[:4])
    command = arguments[4:]
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if libc is not None:
        # After the change of user, which clears it. Elsewhere than on Linux a parent that is
        # killed leaves its servers behind; the stack's lock says so at the next start.
        libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked to be told
        sys.exit(126)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; a server may not
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execv(command[0], command)  # noqa: S606 - the whole point: no shell, this very process
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
