"""The commands `catalog import` and `catalog export`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cli.console import CliError, load_settings, print_note, print_result, run_async, stdout
from store.records import DEFAULT_TENANT, StoreUnavailable

if TYPE_CHECKING:
    from store.catalog_document import CatalogDocument
    from store.postgres.catalog import ImportReport
    from store.postgres.pool import Pool
    from store.settings import Settings

T = TypeVar("T")

app = typer.Typer(
    help="Import or export the catalog of a tenant as a JSON document.", no_args_is_help=True
)


@app.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="JSON document; `-` reads standard input.", metavar="FILE")
    ],
) -> None:
    """Add or update the entries of FILE, by id, in one transaction. Other entries stay unchanged.

    Prints how many entries were added, changed and unchanged.
    """
    settings = load_settings()
    from store.catalog_document import parse_document

    report = run_async(import_document(settings, parse_document(_content(file))))
    print_result(
        f"tenant {report.tenant}: {'version' if report.changed else 'unchanged, version'} "
        f"{report.version}"
    )
    for name, part in report.parts.items():
        print_result(
            f"  {name}: {part.added} added, {part.changed} changed, {part.unchanged} unchanged"
        )


@app.command("export")
def export(
    tenant: Annotated[str, typer.Option(help="Tenant of the catalog.")] = DEFAULT_TENANT,
) -> None:
    """Print the catalog of a tenant as a document for `catalog import`."""
    settings = load_settings()
    from store.catalog_document import dump_document
    from store.postgres.catalog import export_catalog

    document = run_async(with_pool(settings, lambda pool: export_catalog(pool, tenant)))
    stdout.file.write(dump_document(document).decode())


async def import_document(settings: Settings, document: CatalogDocument) -> ImportReport:
    """Import a catalog and tell the readers that their cached copy is out of date.

    Raises CatalogError and StoreUnavailable.
    """
    from store.postgres.catalog import import_catalog, load_catalog

    async def work(pool: Pool) -> tuple[ImportReport, str]:
        report = await import_catalog(pool, document, outcome_types_max=settings.outcome_types_max)
        return report, (await load_catalog(pool, report.tenant)).timezone

    report, timezone = await with_pool(settings, work)
    try:
        # Even if nothing changed: an earlier import may have failed before this step.
        counted_in = await _announce(settings, report)
    except StoreUnavailable as error:
        print_note(
            f"note: imported, but Redis is unavailable ({error}); readers see the new catalog "
            f"within {settings.catalog_refresh_s:g} s"
        )
    else:
        if counted_in not in (None, timezone):
            print_note(
                f"note: the counters of tenant {report.tenant} are in {counted_in} and its catalog "
                f"is in {timezone}; history answers until `interaction-summary rebuild --tenant "
                f"{report.tenant}`"
            )
    return report


async def _announce(settings: Settings, report: ImportReport) -> str | None:
    """Announce the new version; return the time zone of the tenant's counters, if it has any."""
    from store.redis.counters import open_counters

    async with open_counters(settings, retries=3) as counters:
        await counters.announce_catalog(report.tenant, report.version)
        generation = await counters.generation(report.tenant)
    return generation.timezone if generation else None


async def with_pool(settings: Settings, work: Callable[[Pool], Awaitable[T]]) -> T:
    """Return the result of `work`, called with a pool of one connection."""
    from store.postgres.pool import open_pool

    async with open_pool(settings, max_size=1) as pool:
        return await work(pool)


def _content(file: Path) -> bytes:
    if str(file) == "-":
        return typer.get_binary_stream("stdin").read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise CliError(f"{file}: {error.strerror}") from None
