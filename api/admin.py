"""Endpoints that change what a tenant has: its API keys and its catalog.

They do what the commands `keys` and `catalog` do, for the tenant of the caller only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Request
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from api import openapi
from api.access import Access, Admin, Editor, Viewer
from api.body import BODY_BYTES_MAX, CATALOG_BYTES_MAX, Bodies, decode
from api.errors import ApiError, bad_request, unavailable
from store.api_keys import NAME_CHARS_MAX, RATE_LIMIT_MAX, Role, describe, pepper_id
from store.catalog_document import CatalogDocument, CatalogError, dump_document, parse_document
from store.catalog_import import import_and_announce
from store.logs import get_logger
from store.postgres.api_keys import TooManyKeys, create_key, list_keys, revoke_key
from store.postgres.catalog import export_catalog
from store.postgres.pool import Pool
from store.records import StoreUnavailable
from store.redis.counters import RedisCounters
from store.settings import Settings

logger = get_logger("api")

KEYS_PATH: Final = "/api/v1/keys"
CATALOG_PATH: Final = "/api/v1/catalog"
#: Endpoints that read a body.
BODY_PATHS: Final = frozenset({("POST", KEYS_PATH), ("POST", CATALOG_PATH)})
#: Requests about keys, and as many about catalogs, that may use PostgreSQL at once.
CONCURRENCY: Final = 2
#: Each of them has a connection.
CONNECTIONS: Final = 2 * CONCURRENCY
WAIT_S: Final = 5.0


class NewKey(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Body of a request for a new key."""

    role: Role
    name: Annotated[str, Meta(max_length=NAME_CHARS_MAX, pattern=r"\A[^\x00]*\Z")] = ""
    rate_limit_per_minute: Annotated[int, Meta(ge=1, le=RATE_LIMIT_MAX)] | None = None
    """Default: the setting RATE_LIMIT_PER_MINUTE."""


class _DocumentTenant(Struct):
    """The tenant that a catalog document names, if it names one."""

    tenant: str | UnsetType = UNSET


class Administration:
    """What the endpoints do, on the stores."""

    def __init__(self, settings: Settings, pool: Pool, counters: RedisCounters) -> None:
        self._settings = settings
        self._pool = pool
        self._counters = counters
        # Reads of catalogs, which any viewer may ask for, must not delay that a key is revoked.
        self._key_slots = asyncio.Semaphore(CONCURRENCY)
        self._catalog_slots = asyncio.Semaphore(CONCURRENCY)

    async def keys(self, access: Access) -> bytes:
        """Return the keys of the tenant as JSON, revoked ones too."""
        async with self._slot(self._key_slots):
            found = await list_keys(self._pool, access.tenant)
        return _json({"keys": [describe(key, self._current_pepper_id()) for key in found]})

    async def create_key(self, access: Access, wanted: NewKey) -> bytes:
        """Create a key of the tenant, and return it as JSON with its only copy."""
        pepper = self._settings.api_key_pepper
        if not pepper:
            raise ApiError(503, "API_KEY_PEPPER is not set here, so no API key can be made")
        async with self._slot(self._key_slots):
            try:
                listed, key = await create_key(
                    self._pool,
                    access.tenant,
                    wanted.role,
                    name=wanted.name,
                    pepper=pepper,
                    rate_limit_per_minute=wanted.rate_limit_per_minute,
                )
            except TooManyKeys as error:
                raise bad_request(str(error)) from None
        self._log_change("API key created", access, created=listed.id, role=listed.role)
        return _json({"key": key, **describe(listed, self._current_pepper_id())})

    async def revoke_key(self, access: Access, key_id: str) -> bytes:
        """Revoke a key of the tenant, and return what is stored of it as JSON."""
        async with self._slot(self._key_slots):
            revoked = await revoke_key(self._pool, key_id, access.tenant)
        if revoked is None:
            raise ApiError(404, "the tenant has no API key with this id")
        self._log_change("API key revoked", access, revoked=revoked.id, role=revoked.role)
        return _json(describe(revoked, self._current_pepper_id()))

    async def catalog(self, access: Access) -> bytes:
        """Return the catalog document of the tenant."""
        async with self._slot(self._catalog_slots):
            try:
                return dump_document(await export_catalog(self._pool, access.tenant))
            except CatalogError:
                raise ApiError(404, "the tenant has no catalog") from None

    async def import_catalog(self, access: Access, body: bytes) -> bytes:
        """Import the document in `body`, and return what it changed as JSON."""
        named = decode(body, _DocumentTenant).tenant
        if named is not UNSET and named != access.tenant:
            raise ApiError(403, "tenant: is not the tenant of the caller; leave it out")
        try:
            document = msgspec.structs.replace(parse_document(body), tenant=access.tenant)
            async with self._slot(self._catalog_slots):
                report, notes = await import_and_announce(
                    self._settings, self._pool, self._counters, document
                )
        except CatalogError as error:
            raise bad_request(f"body: {error}") from None
        if report.changed:
            self._log_change("catalog changed", access, version=report.version)
        return _json(
            {
                "tenant": report.tenant,
                "version": report.version,
                "changed": report.changed,
                "parts": {name: part._asdict() for name, part in report.parts.items()},
                "notes": notes,
            }
        )

    def _current_pepper_id(self) -> str:
        pepper = self._settings.api_key_pepper
        return pepper_id(pepper) if pepper else ""

    @staticmethod
    @asynccontextmanager
    async def _slot(slots: asyncio.Semaphore) -> AsyncIterator[None]:
        """Take one of the slots. Raises ApiError 503 if none is free, or Postgres unavailable."""
        try:
            async with asyncio.timeout(WAIT_S):
                await slots.acquire()
        except TimeoutError:
            raise unavailable("too many changes at once; try again", retry_after_s=2) from None
        try:
            yield
        except StoreUnavailable as error:
            logger.warning("administration unavailable", cause=str(error))
            raise unavailable("PostgreSQL cannot answer now; try again", retry_after_s=2) from error
        finally:
            slots.release()

    @staticmethod
    def _log_change(event: str, access: Access, **fields: Any) -> None:
        logger.info(event, tenant=access.tenant, by_key=access.key_id, **fields)


def router(administration: Administration) -> APIRouter:
    """Return the endpoints."""
    routes = APIRouter(tags=["administration"], default_response_class=Response)
    new_keys, catalogs = Bodies(BODY_BYTES_MAX), Bodies(CATALOG_BYTES_MAX)

    @routes.get(KEYS_PATH, summary="API keys of the tenant", responses=openapi.KEYS_RESPONSES)
    async def keys(request: Request, caller: Admin) -> Response:
        _no_parameters(request)
        return _response(await administration.keys(caller))

    @routes.post(
        KEYS_PATH,
        status_code=201,
        summary="Create an API key",
        responses=openapi.NEW_KEY_RESPONSES,
        openapi_extra=openapi.body_of(NewKey, {"role": "viewer", "name": "dashboard"}),
    )
    async def create(request: Request, caller: Admin) -> Response:
        _no_parameters(request)
        async with new_keys.read_json(request) as body:
            wanted = decode(body, NewKey)
        return _response(await administration.create_key(caller, wanted), 201)

    @routes.delete(
        f"{KEYS_PATH}/{{key_id}}", summary="Revoke an API key", responses=openapi.KEY_RESPONSES
    )
    async def revoke(request: Request, key_id: str, caller: Admin) -> Response:
        _no_parameters(request)
        return _response(await administration.revoke_key(caller, key_id))

    @routes.get(CATALOG_PATH, summary="Catalog of the tenant", responses=openapi.CATALOG_RESPONSES)
    async def catalog(request: Request, caller: Viewer) -> Response:
        _no_parameters(request)
        return _response(await administration.catalog(caller))

    @routes.post(
        CATALOG_PATH,
        summary="Add or update entries of the catalog, by id, all or none",
        responses=openapi.IMPORT_RESPONSES,
        openapi_extra=openapi.body_of(
            CatalogDocument, {"offers": [{"id": "off_001", "name": "Gold card"}]}
        ),
    )
    async def import_(request: Request, caller: Editor) -> Response:
        _no_parameters(request)
        async with catalogs.read_json(request) as body:
            return _response(await administration.import_catalog(caller, body))

    return routes


def _no_parameters(request: Request) -> None:
    if request.scope["query_string"]:
        raise bad_request("this endpoint has no query parameters")


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


def _response(body: bytes, status: int = 200) -> Response:
    return Response(
        body,
        status_code=status,
        headers={"Cache-Control": "no-store"},
        media_type="application/json",
    )
