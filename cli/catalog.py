"""The commands `catalog import` and `catalog export`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cli.console import CliError, load_settings, print_note, print_result, run_async, stdout
from store.records import DEFAULT_TENANT

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
    """Import a catalog, announce it to the readers, and print what the user should know.

    Raises CatalogError and StoreUnavailable.
    """
    from store.catalog_import import import_and_announce
    from store.redis.counters import open_counters

    async with open_counters(settings, retries=3) as counters:
        report, notes = await with_pool(
            settings, lambda pool: import_and_announce(settings, pool, counters, document)
        )
    for note in notes:
        print_note(f"note: {note}")
    return report


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
