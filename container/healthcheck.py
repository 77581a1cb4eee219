"""Health check of the image: fails if the command that runs as process 1 does not answer.

`api` must answer /healthz on API_PORT, `worker` on WORKER_METRICS_PORT if that is set. All other
commands end by themselves, and their exit code says how they ended. Needs Python alone: it
runs every few seconds, and importing the program would take longer than the question.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.request import urlopen

TIMEOUT_S = 3


def url_of(command_line: list[str], environment: dict[str, str]) -> str | None:
    """Return the URL that this command answers on, None if it answers on none."""
    names = [Path(word).name for word in command_line]
    program = names.index("interaction-summary") if "interaction-summary" in names else -2
    command = names[program + 1 : program + 2]
    if command == ["api"]:
        return f"http://127.0.0.1:{environment.get('API_PORT') or 8000}/healthz"
    port = environment.get("WORKER_METRICS_PORT") or "0"
    if command == ["worker"] and port != "0":
        return f"http://127.0.0.1:{port}/healthz"
    return None


def main() -> None:
    """Exit with 0 if process 1 answers, else with 1 and the reason on standard error."""
    command_line = Path("/proc/1/cmdline").read_bytes().decode(errors="replace").split("\0")
    url = url_of(command_line, dict(os.environ))
    if url is None:
        return
    try:
        urlopen(url, timeout=TIMEOUT_S).close()  # noqa: S310  # http, by the lines above
    except OSError as error:
        sys.exit(f"{url}: {error}")


if __name__ == "__main__":
    main()
