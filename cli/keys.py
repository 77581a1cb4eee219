"""The commands `keys create`, `keys list` and `keys revoke`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.console import CliError, UsageError, load_settings, print_note, print_result, run_async
from store.api_keys import NAME_CHARS_MAX, RATE_LIMIT_MAX, ROLES, hide_keys
from store.records import is_tenant

if TYPE_CHECKING:
    from store.settings import Settings

app = typer.Typer(
    help="Create, list or revoke the API keys that AUTH_MODE=keys asks for.", no_args_is_help=True
)


@app.command("create")
def create(
    tenant: Annotated[str, typer.Option(help="Tenant that the key reads.")],
    role: Annotated[
        str, typer.Option(help=f"One of {', '.join(ROLES)}; each includes the ones before it.")
    ] = "viewer",
    name: Annotated[str, typer.Option(help="Name for people, such as the client's.")] = "",
    rate_limit: Annotated[
        int | None,
        typer.Option(
            help="Requests per minute. Default: setting RATE_LIMIT_PER_MINUTE.",
            min=1,
            max=RATE_LIMIT_MAX,
        ),
    ] = None,
) -> None:
    """Create a key and print it. It is shown only here: the database has its hash."""
    from store.api_keys import Role

    if not is_tenant(tenant):
        raise UsageError(f"--tenant: {tenant!r} is not a tenant id (1-64 of A-Z a-z 0-9 _ . -)")
    if role not in ROLES:
        raise UsageError(f"--role: {role!r} is not one of {', '.join(ROLES)}")
    if len(name) > NAME_CHARS_MAX or "\0" in name:
        raise UsageError(f"--name: at most {NAME_CHARS_MAX} characters, and no NUL")
    settings = load_settings()
    pepper = _pepper(settings)
    from cli.catalog import with_pool
    from store.postgres.api_keys import create_key

    chosen: Role = role
    listed, key = run_async(
        with_pool(
            settings,
            lambda pool: create_key(
                pool, tenant, chosen, name=name, pepper=pepper, rate_limit_per_minute=rate_limit
            ),
        )
    )
    print_result(key)
    print_note(
        f"key {listed.id} of tenant {tenant}, role {role}: works within a second. It is not shown "
        "again."
    )


@app.command("list")
def list_(
    tenant: Annotated[
        str | None, typer.Option(help="Only the keys of this tenant. Default: all.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, with stable names.")
    ] = False,
) -> None:
    """Show the keys, revoked ones too. The keys themselves cannot be shown."""
    settings = load_settings()
    from cli.catalog import with_pool
    from store.api_keys import describe, pepper_id
    from store.postgres.api_keys import list_keys

    keys = run_async(with_pool(settings, lambda pool: list_keys(pool, tenant)))
    current = pepper_id(settings.api_key_pepper) if settings.api_key_pepper else ""
    if json:
        import msgspec

        document = {"keys": [describe(key, current) for key in keys]}
        print_result(msgspec.json.format(msgspec.json.encode(document)).decode())
        return
    from rich.table import Table

    from cli.console import stdout

    table = Table(
        "id", "tenant", "role", "name", "key", "limit/min", "created", "revoked", "pepper"
    )
    for key in keys:
        shown = describe(key, current)
        table.add_row(
            key.id,
            key.tenant,
            key.role,
            key.name or "–",
            key.prefix + "…",
            "–" if key.rate_limit_per_minute is None else f"{key.rate_limit_per_minute:,}",
            f"{key.created_at:%Y-%m-%d %H:%M}",
            f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "–",
            str(shown["pepper"]),
        )
    if keys:
        stdout.print(table)
    print_result(f"{len(keys):,} keys")


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, from `keys list`.", metavar="ID")],
) -> None:
    """Revoke a key. Requests with it are refused within seconds; it cannot be undone."""
    settings = load_settings()
    from cli.catalog import with_pool
    from store.postgres.api_keys import revoke_key

    revoked = run_async(with_pool(settings, lambda pool: revoke_key(pool, key_id)))
    if revoked is None:
        raise CliError(f"there is no key {hide_keys(key_id)!r}; `keys list` shows the ids")
    print_result(f"key {revoked.id} of tenant {revoked.tenant}: revoked")


def _pepper(settings: Settings) -> str:
    from store.settings import MAKE_PEPPER

    if not settings.api_key_pepper:
        raise UsageError(
            "API_KEY_PEPPER is not set: keys are hashed with it. Make one, keep it secret, and "
            f"give the same to every `api`: {MAKE_PEPPER}"
        )
    return settings.api_key_pepper
