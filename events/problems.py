"""What is wrong with a request, as the caller is told it: RFC 9457 problem details, with the field and the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

PROBLEM_JSON = "application/problem+json"

_TITLES = {
    400: "The request cannot be read",
    401: "Who asks?",
    403: "Not from there",
    404: "There is no such thing",
    405: "Not in this way",
    408: "The body did not come",
    409: "It is something else already",
    413: "Too large",
    414: "Too long",
    415: "Not in this form",
    422: "The event is not as it should be",
    429: "Too often",
    500: "Something is wrong here",
    503: "Not now",
}


class Fault(NamedTuple):
    """One thing that is wrong: where (a header, a member of the body, a parameter), and what."""

    field: str
    problem: str


@dataclass
class Problem(Exception):
    """A request that is refused.

    Args:
        status: of the answer.
        kind: what it is called in `type`, after `urn:choreo:problem:`.
        detail: what is wrong, without values of a payload.
        remedy: what to do instead.
        faults: one by one, where there are fields to name.
        headers: of the answer.
    """

    status: int
    kind: str
    detail: str
    remedy: str
    faults: Sequence[Fault] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Give the members of the answer."""
        told: dict[str, Any] = {
            "type": f"urn:choreo:problem:{self.kind}",
            "title": _TITLES[self.status],
            "status": self.status,
            "detail": self.detail,
            "remedy": self.remedy,
        }
        if self.faults:
            told["errors"] = [{"field": each.field, "problem": each.problem} for each in self.faults]
        return told


SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457 problem details: what is wrong, where, and what to do instead.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "remedy": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "problem": {"type": "string"}},
                "required": ["field", "problem"],
            },
        },
    },
    "required": ["type", "title", "status", "detail", "remedy"],
}
"""Its JSON schema, for OpenAPI documents."""
