"""The API with a bare route beside it, for `bench.reads`: one process, on uvicorn or granian.

    python -m bench.reads_app PORT

`/bare?key=K` answers with the bytes of one Redis key: the least that an answer from Redis can cost
in this process.
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.app import build
from api.protocol import LimitedHttpProtocol
from store import logs
from store.redis.client import make_client
from store.settings import Settings


def make_app() -> FastAPI:
    """Return the application of the settings in the environment."""
    settings = Settings()
    logs.configure(settings.log_level)
    app = build(settings)
    client: Any = make_client(settings, timeout_s=10, retries=0)

    async def bare(request: Request) -> Response:
        body = await client.get(request.query_params["key"])
        return Response(body, media_type="application/json")

    app.router.routes.append(Route("/bare", bare))
    return app


def main() -> None:
    """Serve as `api.server` does."""
    uvicorn.run(
        make_app(),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http=LimitedHttpProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )


if __name__ == "__main__":
    main()
