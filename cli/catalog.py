"""`catalog import` and `catalog export`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cli.console import CliError, answer, load_settings, out, run, say
from store.records import DEFAULT_TENANT, StoreUnavailable

if TYPE_CHECKING:
    from store.catalog_document import CatalogDocument
    from store.postgres.catalog import ImportReport
    from store.postgres.pool import Pool
    from store.settings import Settings

T = TypeVar("T")

app = typer.Typer(help="The catalog of a tenant: a JSON document in, or out.", no_args_is_help=True)


@app.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="JSON document; `-` reads standard input.", metavar="FILE")
    ],
) -> None:
    """Registers what FILE gives, by id, all of it or nothing. What it does not give stays.

    Says what it added, changed and left."""
    settings = load_settings()
    from store.catalog_document import parse_document

    report = run(import_document(settings, parse_document(_content(file))))
    answer(
        f"tenant {report.tenant}: {'version' if report.changed else 'unchanged, version'} "
        f"{report.version}"
    )
    for name, part in report.parts.items():
        answer(f"  {name}: {part.added} added, {part.changed} changed, {part.unchanged} left")


@app.command("export")
def export(
    tenant: Annotated[str, typer.Option(help="Whose catalog.")] = DEFAULT_TENANT,
) -> None:
    """Prints the document that, imported, makes this catalog."""
    settings = load_settings()
    from store.catalog_document import dump_document
    from store.postgres.catalog import export_catalog

    document = run(with_pool(settings, lambda pool: export_catalog(pool, tenant)))
    out.file.write(dump_document(document).decode())


async def import_document(settings: Settings, document: CatalogDocument) -> ImportReport:
    """Imports, and tells readers that their catalog is old. Raises CatalogError and
    StoreUnavailable."""
    from store.postgres.catalog import import_catalog

    report = await with_pool(
        settings,
        lambda pool: import_catalog(pool, document, outcome_types_max=settings.outcome_types_max),
    )
    try:
        # Even where nothing changed: an import before this one may not have got as far.
        await _announce(settings, report)
    except StoreUnavailable as error:
        say(
            f"note: imported, but Redis could not be told ({error}); readers see it within "
            f"{settings.catalog_refresh_s:g} s"
        )
    return report


async def _announce(settings: Settings, report: ImportReport) -> None:
    from store.redis.counters import open_counters

    async with open_counters(settings, retries=3) as counters:
        await counters.announce_catalog(report.tenant, report.version)


async def with_pool(settings: Settings, work: Callable[[Pool], Awaitable[T]]) -> T:
    """What `work` makes of a pool of one connection."""
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
