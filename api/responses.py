"""Responses of the summary endpoints: bodies, headers, and 304 where nothing has changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final, Generic, NamedTuple

from fastapi import Request
from starlette.datastructures import Headers
from starlette.responses import Response

from api.lag import LagWatch
from api.reader import Answer, Asked, Found, Source
from store.windows import date_of

_ETAG: Final = re.compile(r'(?:W/)?("[^"]*")')


class Body(NamedTuple, Generic[Asked]):
    """Body of a response, and what its headers say."""

    content: bytes
    etag: str
    question: Asked
    source: Source
    pending: int
    """Events that are counted and not yet in this body."""

    @classmethod
    def of(cls, answer: Answer[Asked, Found], content: bytes) -> Body[Asked]:
        """Return the body of an answer, given its bytes."""
        etag = f'"{blake2b(content, digest_size=16).hexdigest()}"'
        return cls(content, etag, answer.question, answer.source, answer.pending)


def respond(
    request: Request,
    body: Body[Asked],
    *,
    lag: LagWatch | None,
    start_day: int | None = None,
    media_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the response with `body`, or a 304 if If-None-Match has its entity tag.

    `start_day`: the first day of the window; None = the window has none, or the body says it.
    """
    request.state.source = body.source
    all_headers = {
        "X-Summary-Source": body.source,
        "X-Summary-Timezone": body.question.timezone,
        "ETag": body.etag,
        # A client may store the response, and must revalidate it before each use.
        "Cache-Control": "private, no-cache",
        **(headers or {}),
    }
    if start_day is not None:
        all_headers["X-Summary-Window-Start"] = date_of(start_day).isoformat()
    # The lag is that of the counters; the lag of history is not known here.
    if lag is not None and lag.events is not None and body.source == "materialized":
        all_headers["X-Summary-Lag"] = str(lag.events + body.pending)
    if _has_current(request.headers, body.etag):
        return Response(status_code=304, headers=all_headers)
    return Response(body.content, headers=all_headers, media_type=media_type)


def _has_current(headers: Headers, etag: str) -> bool:
    """Return whether If-None-Match lists `etag`, weak or strong, or is `*`."""
    if "if-none-match" not in headers:
        return False
    listed = ",".join(headers.getlist("if-none-match"))
    return listed.strip() == "*" or etag in _ETAG.findall(listed)
