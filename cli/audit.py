"""The command `audit`: options and output of `streams.audit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import CliError, UsageError, load_settings, print_note, print_result, run_async

if TYPE_CHECKING:
    from cli.audit_output import AuditDocument
    from store.settings import Settings


def audit(
    tenant: Annotated[
        str | None, typer.Option(help="Audit only this tenant. Default: all tenants.")
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(help="Number of groups to compare per grouping, about. Default: all.", min=1),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Correct the groups that differ, and compare again.")
    ] = False,
    max_cells: Annotated[
        int, typer.Option(help="Maximum number of differing cells to print per tenant.", min=0)
    ] = 100,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, with stable names.")
    ] = False,
) -> None:
    """Compare the counters with history, and print each number that differs.

    Workers may keep running: both sides are compared at the same offsets. Exit code 0 if nothing
    differs (any more, with --repair), 1 if something does. A tenant whose counters do not answer
    questions now is not compared: the output says why.
    """
    settings = load_settings()
    document = run_async(
        _audit(settings, tenant, sample=sample, repair=repair, max_cells=max_cells, json=json)
    )
    if json:
        import msgspec

        print_result(msgspec.json.format(msgspec.json.encode(document)).decode())
    if document.drift:
        drifted = [t.tenant for t in document.tenants if t.drift]
        remedy = "rebuild these tenants" if repair else "run `audit --repair`, or `rebuild`"
        raise CliError(f"counters and history differ: {', '.join(drifted)}; {remedy}")


async def _audit(
    settings: Settings,
    tenant: str | None,
    *,
    sample: int | None,
    repair: bool,
    max_cells: int,
    json: bool,
) -> AuditDocument:
    from cli.audit_output import AuditDocument, lines_of, tenant_document
    from streams.audit.shards import open_auditor

    document = AuditDocument([], drift=False)
    async with open_auditor(settings) as (auditor, reports):
        tenants = await auditor.tenants()
        if tenant is not None and tenant not in tenants:
            raise UsageError(f"--tenant: {tenant} has neither counters nor a history")
        if not tenants:
            print_note("there are no tenants; nothing to compare")
        for name in tenants if tenant is None else [tenant]:
            found = await auditor.audit(name, sample=sample)
            repaired = await auditor.repair(found) if repair and found.differing else None
            final = repaired.again._replace(groups=found.groups) if repaired else found
            previous = (await reports.audits()).get(name)
            note = final.note("command", previous=previous, repaired=repaired is not None)
            await reports.note_audit(name, note)
            part = tenant_document(found, repaired, max_cells)
            document.tenants.append(part)
            document.drift |= part.drift
            if not json:
                print_result("\n".join(lines_of(part)))
    return document
