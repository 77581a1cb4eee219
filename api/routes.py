"""`GET /api/v1/interaction-summary`: the list, and its bodies, JSON and CSV."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from api import openapi
from api.accept import Representation, preferred
from api.access import Viewer
from api.answer_cache import CachedAnswers
from api.csv_body import encode_csv
from api.lag import LagWatch
from api.params import Params, parse
from api.reader import Answer, SummaryReader
from api.responses import respond
from api.sorting import sorted_page
from store.records import Page, Question
from store.summary import ROW_FIELDS, encode_summary, row

PATH: Final = "/api/v1/interaction-summary"


def router(
    reader: SummaryReader,
    lag: LagWatch | None,
    now_ms: Callable[[], int],
    *,
    cache_bytes_max: int = 0,
) -> APIRouter:
    """Return the endpoint, answered by `reader`; `now_ms` is the clock for the current day.

    Up to `cache_bytes_max` bytes of answers are kept; 0 = none.
    """
    routes = APIRouter()
    answers = CachedAnswers(reader, encode, now_ms=now_ms, bytes_max=cache_bytes_max)

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
        representation = preferred(request.headers.getlist("accept"))
        body = await answers.body(caller.tenant, params, representation)
        return respond(
            request,
            body,
            lag=lag,
            start_day=body.question.window.start_day,
            media_type=representation,
            headers={"X-Summary-Period": body.question.period or "exact", "Vary": "Accept"},
        )

    return routes


def encode(answer: Answer[Question, Page], params: Params, representation: Representation) -> bytes:
    """Return the body. Raises ApiError 400 if there are too many groups to sort."""
    page = answer.found if params.sort == "total" else sorted_page(answer.found, params)
    if representation == "text/csv":
        rows = [row(params.group_by, group, answer.catalog) for group in page.groups]
        return encode_csv([field.name for field in ROW_FIELDS[params.group_by]], rows)
    return encode_summary(
        page,
        answer.catalog,
        group_by=params.group_by,
        days=params.days,
        limit=params.limit,
        offset=params.offset,
    )
