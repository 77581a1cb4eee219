"""The endpoints about one group, and about counts per day; beside the list in `routes`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from fastapi import APIRouter, Request
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.responses import Response

from api import openapi
from api.access import Viewer
from api.bodies import group_body, trend_body
from api.errors import ApiError
from api.group_params import parse_group, parse_trend
from api.group_reader import GroupReader
from api.lag import LagWatch
from api.reader import Found
from api.responses import Body, respond
from api.routes import PATH
from store.records import Grouping

#: An id may have slashes.
GROUP_PATH: Final = f"{PATH}/{{groupBy}}/{{id:anything}}"
TREND_PATH: Final = f"{PATH}/trend"
_encoder: Final = msgspec.json.Encoder()


class _Anything(StringConvertor):
    """Rest of a path, as Starlette's `path`, but with line breaks."""

    regex = r"[\s\S]*"


register_url_convertor("anything", _Anything())


def router(reader: GroupReader, lag: LagWatch | None, now_ms: Callable[[], int]) -> APIRouter:
    """Return the endpoints, answered by `reader`; `now_ms` is the clock for the current day."""
    routes = APIRouter()

    @routes.get(
        TREND_PATH,
        summary="Interactions per calendar day",
        tags=["summary"],
        response_class=Response,
        responses=openapi.TREND_RESPONSES,
        openapi_extra={"parameters": openapi.TREND_PARAMETERS},
    )
    async def interaction_trend(request: Request, caller: Viewer) -> Response:
        params = parse_trend(request.scope["query_string"])
        answer = await reader.trend(caller.tenant, params, now_ms())
        request.state.source = answer.source
        today = answer.question.today
        body = trend_body(params, _known(answer.found, params.group_by), today)
        start_day = today - params.days + 1
        content = _encoder.encode(body)
        return respond(request, Body.of(answer, content), lag=lag, start_day=start_day)

    @routes.get(
        GROUP_PATH,
        summary="One action, treatment, channel or customer in all periods",
        tags=["summary"],
        response_class=Response,
        responses=openapi.GROUP_RESPONSES,
        openapi_extra={"parameters": openapi.GROUP_PARAMETERS},
    )
    async def interaction_group(request: Request, caller: Viewer) -> Response:
        params = parse_group(request.scope)
        answer = await reader.group(caller.tenant, params, now_ms())
        request.state.source = answer.source
        group = _known(answer.found, params.group_by)
        today = answer.question.today
        body = group_body(params.group_by, params.id, group, answer.catalog, today)
        return respond(request, Body.of(answer, _encoder.encode(body)), lag=lag)

    return routes


def _known(found: Found | None, group_by: Grouping) -> Found:
    """Return what was found. Raises ApiError 404 if the group never had an interaction."""
    if found is None:
        raise ApiError(404, f"there never was an interaction of this {group_by}; check id")
    return found
