"""The commands that docs/operations.md gives the Redis user are exactly those that are used."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.documented_rights import documented_redis_commands

REDIS = Path(__file__).parents[2] / "store/redis"
#: What the driver sends by itself.
OF_THE_DRIVER = {"auth", "hello", "select"}
#: What the library `limits` sends; tests/e2e/test_rights.py uses it with exactly these rights.
OF_RATE_LIMITS = {"expire", "script|load"}
#: Methods of the driver that are no commands, and those whose command has another name.
NO_COMMANDS = {"pipeline", "execute", "aclose"}
OTHER_NAMES = {"incr": "incrby"}


def test_the_documented_commands_are_those_that_are_used() -> None:
    scripts = "\n".join(path.read_text() for path in REDIS.glob("lua/*.lua"))
    modules = "\n".join(path.read_text() for path in REDIS.glob("*.py"))
    # A call, and a table that becomes one by `unpack`.
    called = set(re.findall(r"(?:redis\.p?call\(\s*|= ?\{ ?)'([A-Z]+)'", scripts))
    assert len(called) > 25, called
    methods = set(re.findall(r"(?:client|pipeline)\.([a-z]+)\(", modules)) - NO_COMMANDS
    assert len(methods) > 20, methods
    used = {name.lower() for name in called} | {OTHER_NAMES.get(m, m) for m in methods}
    assert documented_redis_commands() == used | OF_THE_DRIVER | OF_RATE_LIMITS
