"""How the gateway refuses: every error as problem details, with no word of a payload and no traceback."""

from __future__ import annotations

import traceback

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ExceptionHandler

from .errors import ChoreoError, LimitExceeded
from .problems import PROBLEM_JSON, Problem

log = structlog.get_logger("choreo.gateway")


def answer(problem: Problem) -> Response:
    return JSONResponse(problem.body(), problem.status, dict(problem.headers), media_type=PROBLEM_JSON)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return answer(error)


async def _refuse_http(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: paths and methods that there are not."""
    assert isinstance(error, HTTPException)
    what = {404: "no-such-path", 405: "method-not-allowed"}.get(error.status_code, "refused")
    status = error.status_code if error.status_code in (404, 405) else 400
    told = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return answer(Problem(status, what, told, "see /openapi.json", headers=dict(error.headers or {})))


async def _refuse_own(request: Request, error: Exception) -> Response:
    """What cannot be done now, or not here, whatever the caller sends."""
    assert isinstance(error, ChoreoError)
    if error.retryable:
        remedy = "send the same request again: what was published meanwhile has the same id, and copies are dropped"
        return answer(Problem(503, "unavailable", error.message, remedy, headers={"retry-after": "2"}))
    if isinstance(error, LimitExceeded):
        return answer(Problem(413, "too-large", error.message, "send less"))
    log.error("a request could not be served", error=error.message, kind=type(error).__name__)
    return answer(Problem(500, "misconfigured", error.message, "tell whoever runs this gateway"))


async def _refuse_defect(request: Request, error: Exception) -> Response:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{frame.filename}:{frame.lineno}"  # no more of it: an error's text may hold a payload
    log.error("a request could not be served", path=request.url.path, error=type(error).__name__, where=where)
    told = "something went wrong that is not the request's fault"
    return answer(Problem(500, "defect", told, "tell whoever runs this gateway; its log says more"))


HANDLERS: dict[object, ExceptionHandler] = {
    Problem: _refuse,
    HTTPException: _refuse_http,
    ChoreoError: _refuse_own,
    Exception: _refuse_defect,
}
"""What becomes of each kind of error."""
