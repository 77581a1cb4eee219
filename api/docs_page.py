"""`/docs`: the API described, by a Swagger UI that comes with the program: it works offline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Final

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import Response

PATH: Final = "/docs"
#: File of the package fastapi_swagger -> its media type.
_FILES: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
#: The page starts its UI by an inline script. Nothing is loaded from, or sent to, other hosts.
_CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)


def router(title: str) -> APIRouter:
    """Return the page and the files that it loads."""
    routes = APIRouter(include_in_schema=False)
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=title,
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon-32x32.png",
        swagger_ui_parameters={"tryItOutEnabled": True},
    ).body
    package = resources.files("fastapi_swagger.resources")
    files = {name: (package / name).read_bytes() for name in _FILES}

    @routes.get(PATH)
    async def docs() -> Response:
        return Response(
            bytes(page),
            media_type="text/html",
            headers={"Content-Security-Policy": _CONTENT_SECURITY_POLICY},
        )

    for name, media_type in _FILES.items():
        routes.add_api_route(f"{PATH}/{name}", _file(files[name], media_type))
    return routes


def _file(content: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def file() -> Response:
        return Response(
            content, media_type=media_type, headers={"Cache-Control": "public, max-age=86400"}
        )

    return file
