"""Connections of another user of this machine. Only root can become another user."""

from __future__ import annotations

import json
import pwd
import subprocess
import sys
from typing import Final

NOBODY: Final = pwd.getpwnam("nobody").pw_uid

_CONNECTS: Final = """
import encodings.idna, json, os, secrets, sys
import psycopg, redis
uid, postgres_url, redis_url = int(sys.argv[1]), *sys.argv[2:]
client = redis.Redis.from_url(redis_url)
if uid != os.geteuid():  # from here on, modules may be out of reach
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
answers = []
for connect in (lambda: psycopg.connect(postgres_url).close(), client.ping):
    try:
        connect()
        answers.append("connected")
    except (psycopg.Error, redis.RedisError) as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def connect_as(uid: int, postgres_url: str, redis_url: str) -> list[str]:
    """Return for PostgreSQL and Redis `connected`, or the error that the user `uid` gets."""
    command = [sys.executable, "-c", _CONNECTS, str(uid), postgres_url, redis_url]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    answers: list[str] = json.loads(done.stdout)
    return answers
