"""The command `status`: what needs attention, then partitions, tenants and sizes."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.console import CliError, load_settings, print_result, run_async, stdout


def status(
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, with stable names.")
    ] = False,
) -> None:
    """Show what needs attention, lag, freshness, generations, windows, rebuilds, audits and sizes.

    Lag 0 = all events are counted. Exit code 1 if Kafka, Redis or Postgres is unavailable; the
    values of the others are shown.
    """
    settings = load_settings()
    from cli.status_report import gather_status

    report = run_async(gather_status(settings))
    if json:
        import msgspec

        print_result(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        from cli.status_output import parts_of

        for part in parts_of(report):
            stdout.print(part, soft_wrap=False)
    if report.errors:
        raise CliError("; ".join(report.errors.values()))
