"""Script that prepares a child process and then becomes the program: standard library only.

Usage: `python launch.py PARENT_PID DEATH_SIGNAL UID GID COMMAND…`

It changes the user, and asks the kernel to send DEATH_SIGNAL when the parent ends, in any way. Both
must happen in the new process, before the program runs. The hook of `subprocess` for that,
`preexec_fn`, runs Python between fork and exec, which is not safe in a process with threads; a
script is safe.

UID and GID are -1 to keep the user. Exit codes: 126 the parent has ended, 127 no such command.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Prepare this process and replace it by the command. Exits on failure."""
    parent, death_signal, uid, gid = (int(a) for a in arguments[:4])
    command = arguments[4:]
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if libc is not None:
        # After the change of user, which clears the setting. On other systems a parent that is
        # killed leaves its servers running; the stack's lock reports that at the next start.
        libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the request to the kernel
        sys.exit(126)
    for ignored in (
        signal.SIGPIPE,
        signal.SIGXFSZ,
    ):  # ignored by Python; servers expect the default
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execv(command[0], command)  # noqa: S606 - replaces this process
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
