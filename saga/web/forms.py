"""What a form of ours says: read within limits, and only where it comes from a page of the same visit."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.requests import Request

from ...events.problems import Fault, Problem
from ...events.receiving import read_body
from .visitors import Visitors

MOST_FORM = 64_000
_MOST_FIELDS = 50
_FORM = "application/x-www-form-urlencoded"


async def read_form(request: Request, visitors: Visitors, most: int = MOST_FORM) -> dict[str, str]:
    """Read a form's fields; of one that stands twice the last.

    Args:
        request: which.
        visitors: knows what our forms carry.
        most: bytes of the whole form.

    Raises:
        Problem: it is too large, no form, or not of this visit.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM:
        told = f"content-type {kind[:60]!r} is not read here"
        raise Problem(415, "unsupported-media-type", told, f"send {_FORM}", [Fault("content-type", "another")])
    body = await read_body(request, most)
    try:
        fields = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict"))
    except ValueError:
        raise Problem(400, "malformed-form", "the form cannot be read", "send fields in UTF-8") from None
    # Whoever sends a token with each request is no browser that another page could make do something.
    if not request.state.bearer and not visitors.stamped(
        request.state.visit, request.state.visitor, fields.get("stamp", "")
    ):
        told = "the form is not of this visit, or too old"
        raise Problem(403, "wrong-stamp", told, "load the page again and send its form", [Fault("stamp", "another")])
    return fields
