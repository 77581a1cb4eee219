"""Folders and files without access for other users."""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.embedded import private_folder
from cli.embedded.private_folder import SocketFolder, make_private, write_private
from cli.embedded.server import StackError


@pytest.fixture
def home() -> Iterator[Path]:
    """Folder with a short path, unlike `tmp_path`."""
    made = Path(tempfile.mkdtemp())
    yield made
    shutil.rmtree(made)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_is_made_private_whether_it_is_new_or_not(tmp_path: Path) -> None:
    make_private(tmp_path / "parent" / "new")
    assert mode(tmp_path / "parent" / "new") == 0o700
    (tmp_path / "old").mkdir()
    (tmp_path / "old").chmod(0o777)
    make_private(tmp_path / "old")
    assert mode(tmp_path / "old") == 0o700


def test_a_private_file_replaces_a_public_one_and_does_not_follow_a_link(tmp_path: Path) -> None:
    elsewhere, link, public = (tmp_path / name for name in ("elsewhere", "link", "public"))
    elsewhere.write_text("untouched")
    link.symlink_to(elsewhere)
    public.write_text("old")
    public.chmod(0o666)
    (tmp_path / ".public.new").symlink_to(elsewhere)
    for path in (link, public):
        write_private(path, "new")
        assert (path.read_text(), path.is_symlink(), mode(path)) == ("new", False, 0o600)
    assert elsewhere.read_text() == "untouched"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "link", "public"]


def test_sockets_are_in_the_home_of_the_server_if_that_is_possible(home: Path) -> None:
    sockets = SocketFolder("a.sock")
    sockets.prepare(home)
    assert sockets.socket == home / "a.sock"
    assert list(home.iterdir()) == []
    sockets.remove()
    assert home.exists()


@pytest.mark.parametrize("name", ["x" * 110, "a,b"])
def test_elsewhere_they_are_in_a_private_folder_that_stays_until_it_is_removed(
    home: Path, name: str
) -> None:
    home = home / name
    home.mkdir()
    sockets = SocketFolder("a.sock")
    sockets.prepare(home)
    first = sockets.path
    assert (first.is_relative_to(home), mode(first)) == (False, 0o700)
    sockets.prepare(home)
    assert sockets.path == first
    sockets.remove()
    assert not first.exists()
    sockets.prepare(home)
    assert sockets.path not in (first, home)
    sockets.remove()


def test_no_place_for_a_socket_is_an_error_that_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = home / ("x" * 110)
    long.mkdir()
    monkeypatch.setattr(private_folder, "_SHORT_FOLDERS", (str(long),))
    with pytest.raises(StackError, match=r"^no folder for the socket a\.sock: .*--data-dir$"):
        SocketFolder("a.sock").prepare(long)
    assert list(long.iterdir()) == []
