"""The command `api`: runs the HTTP reader."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.console import load_settings


def api(
    host: Annotated[
        str | None, typer.Option(help="Address to bind. Default: setting API_HOST.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port to bind. Default: setting API_PORT.", min=0, max=65535),
    ] = None,
    workers: Annotated[int, typer.Option(help="Number of server processes.", min=1, max=64)] = 1,
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C."""
    settings = load_settings()
    from api.server import serve

    serve(
        settings,
        settings.api_host if host is None else host,
        settings.api_port if port is None else port,
        workers,
    )
