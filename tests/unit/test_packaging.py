"""The lock files and the package: complete, and as pyproject.toml says."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def locked(name: str) -> dict[str, Version]:
    lines = (ROOT / name).read_text().splitlines()
    pins = [re.match(r"([\w.-]+)(?:\[[\w,-]+\])?==([^ ;]+)", line) for line in lines]
    return {canonicalize_name(pin[1]): Version(pin[2]) for pin in pins if pin}


def missing(requirements: list[str], lock: str) -> list[str]:
    """Return the requirements that the lock does not meet."""
    pins = locked(lock)
    wanted = [Requirement(text) for text in requirements]
    return [
        str(requirement)
        for requirement in wanted
        if canonicalize_name(requirement.name) not in pins
        or not requirement.specifier.contains(pins[canonicalize_name(requirement.name)])
    ]


def test_the_lock_meets_all_requirements_of_the_project() -> None:
    extras = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
    assert missing([*PROJECT["dependencies"], *extras], "requirements.lock") == []


def test_the_images_lock_is_the_same_without_servers_and_tests() -> None:
    assert missing(PROJECT["dependencies"], "requirements-runtime.lock") == []
    everything, image = locked("requirements.lock"), locked("requirements-runtime.lock")
    assert image.items() <= everything.items()
    for extra in PROJECT["optional-dependencies"].values():
        for text in extra:
            assert canonicalize_name(Requirement(text).name) not in image


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-runtime.lock"])
def test_locks_have_a_hash_for_each_pin_and_name_no_host(name: str) -> None:
    text = (ROOT / name).read_text()
    pins = [part for part in re.split(r"\n(?=\S)", text) if "==" in part.split("\n", 1)[0]]
    assert len(pins) >= len(locked(name)) > 20
    assert [pin.split(" ")[0] for pin in pins if "--hash=sha256:" not in pin] == []
    assert "://" not in text


def test_every_package_is_installed() -> None:
    found = {
        ".".join(init.parent.relative_to(ROOT).parts)
        for top in ("store", "streams", "api", "cli")
        for init in (ROOT / top).rglob("__init__.py")
    }
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == found


def test_every_data_file_is_installed() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["*"]
    forgotten = [
        str(path.relative_to(ROOT))
        for top in ("store", "streams", "api", "cli")
        for path in (ROOT / top).rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        and not any(path.match(pattern) for pattern in patterns)
    ]
    assert forgotten == []


def test_make_finds_no_python_and_says_so(tmp_path: Path) -> None:
    for name in ("sh", "touch"):  # the only programs on its PATH
        (tmp_path / name).symlink_to(f"/bin/{name}")
    (tmp_path / "requirements.lock").touch()
    (tmp_path / "pyproject.toml").touch()
    made = subprocess.run(
        ["/usr/bin/make", "--file", str(ROOT / "Makefile"), "install"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 2
    assert "No Python 3.11 or newer with its venv module was found" in made.stderr
