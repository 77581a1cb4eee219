"""TCP proxy in front of Redis that loses answers of scripts which Redis has executed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Final
from urllib.parse import urlsplit

from store.redis.client import Script

_SCRIPTS: Final = (b"EVALSHA", b"EVAL")
_ANSWER_BYTES: Final = 1 << 20
#: What scripts include, besides what all do.
_INCLUDES: Final[Sequence[tuple[str, ...]]] = (
    (),
    ("parts", "counting"),
    ("parts", "slots"),
    ("parts", "slots", "counting"),
    ("parts", "windows"),
    ("order",),
    ("parts", "ranking"),
    ("parts", "order", "ranking"),
)


class RedisProxy:
    """Passes commands on, and closes the connection in place of the answers that it loses."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[str] = []
        """Names of the scripts that Redis has executed, in order."""
        self.lost: list[str] = []
        """Names of the scripts whose answers were lost."""
        self.loses: Callable[[int, str], bool] = lambda index, name: False
        """Whether to lose the answer of the script call with this index (from 0) and name."""
        self._names = {
            Script(name, read_only=read_only, include=include).sha.encode(): name
            for name in _script_names()
            for read_only in (False, True)
            for include in _INCLUDES
        }

    @asynccontextmanager
    async def open(self, redis_url: str) -> AsyncIterator[RedisProxy]:
        """Listen on a port of its own, in front of the server of `redis_url`."""
        target = urlsplit(redis_url)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            answers, commands = await asyncio.open_connection(target.hostname, target.port or 6379)
            try:
                await self._relay(reader, writer, answers, commands)
            except (asyncio.IncompleteReadError, OSError):
                pass  # one of the two has closed its connection
            finally:
                commands.close()
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}{target.path}"
        try:
            yield self
        finally:
            server.close()

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        commands: asyncio.StreamWriter,
    ) -> None:
        passing = asyncio.create_task(_pass_on(answers, writer))
        try:
            while True:
                words, raw = await _command(reader)
                if words[0].upper() not in _SCRIPTS:
                    commands.write(raw)
                    continue
                # A client sends a script alone and waits, so the next answer is that of the script.
                passing.cancel()
                await asyncio.gather(passing, return_exceptions=True)
                commands.write(raw)
                answer = await answers.read(_ANSWER_BYTES)
                if self._is_lost(words[1], answer):
                    return
                writer.write(answer)
                passing = asyncio.create_task(_pass_on(answers, writer))
        finally:
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)

    def _is_lost(self, script: bytes, answer: bytes) -> bool:
        if answer.startswith(b"-"):
            return False  # not executed: Redis does not have the script yet
        name = self._names.get(script) or self._name_of(script)
        self.calls.append(name)
        if not self.loses(len(self.calls) - 1, name):
            return False
        self.lost.append(name)
        return True

    def _name_of(self, text: bytes) -> str:
        import hashlib

        return self._names[hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()]


def _script_names() -> list[str]:
    names = {file.name for file in resources.files("store.redis.lua").iterdir()}
    scripts = {name.removesuffix(".lua") for name in names if name.endswith(".lua")}
    return sorted(scripts - {"layout", "common", *itertools.chain(*_INCLUDES)})


async def _pass_on(answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await answers.read(_ANSWER_BYTES):
        writer.write(part)
        await writer.drain()
    writer.close()


async def _command(reader: asyncio.StreamReader) -> tuple[list[bytes], bytes]:
    """Return the words of the next command (RESP), and its bytes."""
    head = await reader.readuntil(b"\r\n")
    raw, words = [head], []
    for _ in range(int(head[1:])):
        size = await reader.readuntil(b"\r\n")
        word = await reader.readexactly(int(size[1:]) + 2)
        raw += (size, word)
        words.append(word[:-2])
    return words, b"".join(raw)
