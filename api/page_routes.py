"""`/`: the page for people, and the files that it loads, which are in `api/page/`.

They need no API key: they hold no data. What they show comes from the API, with a key.
"""

from __future__ import annotations

from hashlib import blake2b
from importlib import resources
from typing import Final, NamedTuple

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

PATH: Final = "/"
FILES_PATH: Final = "/page"
_INDEX: Final = "index.html"
_MEDIA_TYPES: Final = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
#: Nothing inline, nothing of another host, and no other page may frame this one.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _File(NamedTuple):
    content: bytes
    media_type: str
    etag: str


def router() -> APIRouter:
    """Return the page and its files, read once."""
    routes = APIRouter(include_in_schema=False)
    files = _read_files()

    @routes.get(PATH)
    async def page(request: Request) -> Response:
        return _response(request, files[_INDEX])

    @routes.get(f"{FILES_PATH}/{{name}}")
    async def file(request: Request, name: str) -> Response:
        if name not in files or name == _INDEX:
            raise HTTPException(404)
        return _response(request, files[name])

    return routes


def _read_files() -> dict[str, _File]:
    found = {}
    for each in resources.files("api.page").iterdir():
        media_type = _MEDIA_TYPES.get(each.name.rpartition(".")[2])
        if media_type is not None:
            content = each.read_bytes()
            etag = f'"{blake2b(content, digest_size=16).hexdigest()}"'
            found[each.name] = _File(content, media_type, etag)
    return found


def _response(request: Request, file: _File) -> Response:
    headers = {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Referrer-Policy": "no-referrer",
        "ETag": file.etag,
        # Asked for again at each load, so that all files are those of one version.
        "Cache-Control": "no-cache",
    }
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
