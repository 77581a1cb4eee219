"""The console script `interaction-summary`. One thin module per command; each imports what it needs
when it runs, so that `--help` is quick."""

from __future__ import annotations

import logging
import os
import sys

import typer

from cli import api, catalog, dlq, load, migrate, rebuild, status, up, worker
from cli.console import report_error

app = typer.Typer(
    name="interaction-summary",
    help="Exact rolling counters of customer interactions: Kafka in, Redis and Postgres kept, "
    "one HTTP answer out. Settings come from the environment; see the README.",
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
app.add_typer(dlq.app, name="dlq")
app.command("status")(status.status)


def main() -> None:
    """Exit code 0 on success, 1 on failure with one line on standard error, 2 on bad usage."""
    if os.environ.get("LOG_LEVEL") != "DEBUG":
        # What fails is said in one line; libraries would add theirs. `worker` and `api`, which
        # log, set this up for themselves.
        logging.getLogger().addHandler(logging.NullHandler())
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(report_error(error))


if __name__ == "__main__":
    main()
