"""Sagas counted by what they have in common: one answer, for the command line and the web view."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from . import causes, queries
from .queries import Filter
from .report import rfc3339

GROUP = "saga.group/v1"


def groups(connection: Connection, wanted: Filter, by: str) -> list[dict[str, Any]]:
    """Count the sagas of a filter, the largest group first.

    Args:
        connection: within a read.
        wanted: which sagas.
        by: one of `queries.GROUPS`; by "error" each group also tells type, step, text and runbook.

    Returns:
        Each group; its times are microseconds.
    """
    shared = {"schema": GROUP, "by": by}
    if by != "error":
        return [
            {
                **shared,
                "value": each.value,
                "count": each.size,
                "first_at": each.first_at,
                "last_at": each.last_at,
                "example": each.example,
            }
            for each in queries.group_sagas(connection, wanted, by)
        ]
    known = queries.definitions(connection)
    return [
        {
            **shared,
            "value": each.error,
            "count": each.size,
            "first_at": each.first_at,
            "last_at": each.last_at,
            "example": each.example,
            "type": each.type,
            "step": each.step,
            "message": each.message,
            "signature": causes.signature(each.type, each.step, each.error),
            "runbook": causes.runbook(known, each.type, each.step),
        }
        for each in causes.bursts(connection, *queries.clauses(connection, wanted))
    ]


def told(group: dict[str, Any]) -> dict[str, Any]:
    """Tell a group as JSON has it (`saga.group/v1`)."""
    return {**group, **{name: rfc3339(group[name]) for name in ("first_at", "last_at")}}


def spoken(group: dict[str, Any]) -> str:
    """Say in words what a group has in common."""
    value, message = group["value"], group.get("message")
    return f"{value}: {message}" if message and message != value else value or "-"
