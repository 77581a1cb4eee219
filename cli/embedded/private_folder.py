"""Folders and files that other users of this machine have no access to."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Final

from cli.embedded.postgres_home import User, can_enter
from cli.embedded.server import StackError

#: Where sockets are if the data folder cannot have them. /tmp, since TMPDIR may be a long path too.
_SHORT_FOLDERS: Final = (tempfile.gettempdir(), "/tmp")  # noqa: S108 - for a private folder in it


def check_owner(folder: Path) -> None:
    """Create the folder if it is missing. Raises StackError if it belongs to another user.

    That user could read and change what is in it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    uid = folder.stat().st_uid
    if uid != os.geteuid():
        raise StackError(
            f"{folder} belongs to the user {user_name(uid)}: choose another folder with "
            f"--data-dir, or run this as {user_name(uid)}"
        )


def make_private(folder: Path) -> None:
    """Create the folder if it is missing, and close it to other users. Raises StackError."""
    check_owner(folder)
    folder.chmod(0o700)


def write_private(path: Path, text: str, user: User | None = None) -> None:
    """Write a file that only its owner can read: `user`, or else we. An older file is replaced."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    # A new file: a link that another user has put there is not followed.
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        if user is not None:
            os.fchown(fd, *user)
    new.replace(path)


def user_name(uid: int) -> str:
    """Return the name of a user, or its number if it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class SocketFolder:
    """Folder of one server's Unix socket.

    The sockets are in the private folder `home` of the server. A path of more than 107 bytes (103
    on macOS), a file system without sockets, or a comma, which ends a host name of PostgreSQL, make
    that impossible. Then they are in a temporary folder, which is as private, until `remove`.
    """

    def __init__(self, socket_name: str) -> None:
        self._socket_name = socket_name
        self._path: Path | None = None
        self._is_temporary = False

    @property
    def path(self) -> Path:
        assert self._path is not None, "not prepared"
        return self._path

    @property
    def socket(self) -> Path:
        return self.path / self._socket_name

    def prepare(self, home: Path, user: User | None = None) -> None:
        """Choose the folder; `user` runs the server, None = we. Raises StackError."""
        if self._is_temporary and self.path.exists():  # of an earlier start
            return
        self._path, self._is_temporary = home, False
        if self._has_room():
            return
        for parent in _SHORT_FOLDERS:
            self._path = Path(tempfile.mkdtemp(prefix="interaction-summary-", dir=parent))
            self._is_temporary = True
            if user is not None:
                os.chown(self._path, *user)
            if self._has_room() and (user is None or can_enter(user, self._path)):
                return
            self.remove()
        raise StackError(
            f"no folder for the socket {self._socket_name}: {home} cannot have it (a path of at "
            f"most 107 bytes is needed), nor can {' or '.join(dict.fromkeys(_SHORT_FOLDERS))}; "
            "choose a shorter --data-dir"
        )

    def remove(self) -> None:
        """Remove the folder if it is temporary."""
        if self._is_temporary:
            shutil.rmtree(self.path, ignore_errors=True)
            self._is_temporary = False

    def _has_room(self) -> bool:
        """Return whether a socket can be made here: the kernel decides, for a path as long."""
        if "," in str(self.path):
            return False
        probe = self.path / ("~" * len(self._socket_name))
        with socket.socket(socket.AF_UNIX) as bound:
            try:
                bound.bind(str(probe))
            except OSError:
                return False
            finally:
                with contextlib.suppress(OSError):
                    probe.unlink()
        return True
