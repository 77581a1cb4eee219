"""`GET /api/v1/interaction-summary`: the endpoint, its body and its headers."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import msgspec
from fastapi import APIRouter, Request
from starlette.datastructures import Headers
from starlette.responses import Response

from api import openapi
from api.access import Viewer
from api.lag import LagWatch
from api.params import Params, parse
from api.reader import Answer, SummaryReader
from store.records import Page, Question
from store.summary import row
from store.windows import date_of

PATH: Final = "/api/v1/interaction-summary"
_ETAG: Final = re.compile(r'(?:W/)?("[^"]*")')
_encoder: Final = msgspec.json.Encoder()


def router(reader: SummaryReader, lag: LagWatch | None, now_ms: Callable[[], int]) -> APIRouter:
    """Return the endpoint, answered by `reader`; `now_ms` is the clock for the current day."""
    routes = APIRouter()

    @routes.get(
        PATH,
        summary="Interactions per action, treatment, channel or customer",
        tags=["summary"],
        response_class=Response,
        responses=openapi.SUMMARY_RESPONSES,
        openapi_extra={"parameters": openapi.SUMMARY_PARAMETERS},
    )
    async def interaction_summary(request: Request, caller: Viewer) -> Response:
        params = parse(request.scope["query_string"])
        answer = await reader.answer(caller.tenant, params, now_ms())
        request.state.source = answer.source
        body = encode(answer, params)
        headers = _headers(answer, body, lag)
        if _has_current(request.headers, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type="application/json")

    return routes


def encode(answer: Answer[Question, Page], params: Params) -> bytes:
    """Return the JSON body, its fields in the order of the API contract."""
    group_by = params.group_by
    return _encoder.encode(
        {
            "groupBy": group_by,
            "days": params.days,
            "summary": [row(group_by, group, answer.catalog) for group in answer.found.groups],
            "total": answer.found.total,
            "limit": params.limit,
            "offset": params.offset,
        }
    )


def _headers(answer: Answer[Question, Page], body: bytes, lag: LagWatch | None) -> dict[str, str]:
    question = answer.question
    headers = {
        "X-Summary-Source": answer.source,
        "X-Summary-Period": question.period or "exact",
        "ETag": f'"{blake2b(body, digest_size=16).hexdigest()}"',
        # A client may store the response, and must revalidate it before each use.
        "Cache-Control": "private, no-cache",
    }
    if question.window.start_day is not None:
        headers["X-Summary-Window-Start"] = date_of(question.window.start_day).isoformat()
    # The lag is that of the counters; the lag of history is not known here.
    if lag is not None and lag.events is not None and answer.source == "materialized":
        headers["X-Summary-Lag"] = str(lag.events + answer.pending)
    return headers


def _has_current(headers: Headers, etag: str) -> bool:
    """Return whether If-None-Match lists `etag`, weak or strong, or is `*`."""
    if "if-none-match" not in headers:
        return False
    listed = ",".join(headers.getlist("if-none-match"))
    return listed.strip() == "*" or etag in _ETAG.findall(listed)
