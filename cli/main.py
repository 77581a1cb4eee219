"""The console script `interaction-summary`: one thin module per command.

Each command imports its dependencies when it runs, so that `--help` is fast.
"""

from __future__ import annotations

import logging
import os
import sys

import typer

from cli import (
    api,
    audit,
    catalog,
    dlq,
    history,
    keys,
    load,
    migrate,
    rebuild,
    status,
    tenants,
    up,
    worker,
)
from cli.console import report_error

app = typer.Typer(
    name="interaction-summary",
    help="Exact rolling counters of customer interactions: read from Kafka, stored in Redis and "
    "Postgres, served over HTTP. Settings come from environment variables; see the README.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("up")(up.up)
app.command("migrate")(migrate.migrate)
app.command("worker")(worker.worker)
app.command("api")(api.api)
app.add_typer(catalog.app, name="catalog")
app.command("load")(load.load)
app.command("rebuild")(rebuild.rebuild)
app.command("audit")(audit.audit)
app.add_typer(dlq.app, name="dlq")
app.add_typer(keys.app, name="keys")
app.add_typer(tenants.app, name="tenants")
app.add_typer(history.app, name="history")
app.command("status")(status.status)


def main() -> None:
    """Run the command line and exit.

    Exit code 0 on success, 1 on failure with one line on standard error, 2 on bad usage.
    """
    if os.environ.get("LOG_LEVEL") != "DEBUG":
        # A failure is reported in one line, so the log records of libraries are discarded. `worker`
        # and `api` set up their own logging.
        logging.getLogger().addHandler(logging.NullHandler())
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(report_error(error))


if __name__ == "__main__":
    main()
