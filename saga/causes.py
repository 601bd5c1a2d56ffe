"""The errors that sagas ended up with: which they share, how often, and where one finds what to do about them.

Two sagas have the same error when the same step of the same type failed with the same class of error; texts may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from sqlalchemy import JSON, BigInteger, ColumnElement, Connection, cast, func, literal_column, or_, select, type_coerce

from ..events.clock import SECOND
from .definition import Definition
from .instance import Instance
from .tables import saga

RECENT = 3_600 * SECOND
"""What "lately" means of errors, microseconds."""


class Burst(NamedTuple):
    """One error with how many sagas have it.

    Args:
        type, step, error: what they share; without a step it is of the saga as a whole.
        message: the text of the error where all have the same.
        size: how many sagas.
        first_at, last_at: when it was met, microseconds.
        example: the saga that met it last.
    """

    type: str
    step: str | None
    error: str
    message: str | None
    size: int
    first_at: int
    last_at: int
    example: str


def cause(connection: Connection, name: str) -> ColumnElement[str | None]:
    """Give what a saga's state says of its cause: `step`, `message` or `at`, as text."""
    # A cast to JSON is what PostgreSQL needs, and what would make a number of it in SQLite.
    state: Any = (
        cast(saga.c.state, JSON) if connection.dialect.name == "postgresql" else type_coerce(saga.c.state, JSON)
    )
    found: ColumnElement[str | None] = state["cause"][name].as_string()
    return found


def speaks_of(connection: Connection, text: str) -> ColumnElement[bool]:
    """Choose the sagas whose error has this in its class or in its text, in whatever case."""
    told = (saga.c.error, cause(connection, "message"))
    return saga.c.error.isnot(None) & or_(*(each.icontains(text, autoescape=True) for each in told))


def bursts(connection: Connection, *clauses: ColumnElement[bool]) -> list[Burst]:
    """Count errors, the most frequent first.

    Args:
        connection: within a read.
        clauses: of which sagas.
    """
    step, message = cause(connection, "step"), cause(connection, "message")
    at = func.coalesce(cast(cause(connection, "at"), BigInteger), saga.c.updated_at)
    # Not the bare column: SQLite would walk its index, all sagas, to have the groups in order.
    type_ = saga.c.type.concat(literal_column("''"))
    columns = (
        type_,
        step.label("step"),
        saga.c.error,
        func.min(message),
        func.max(message),
        func.count(message),
        func.count(),
        func.min(at),
        func.max(at),
        func.max(saga.c.id),
    )
    query = select(*columns).where(saga.c.error.isnot(None), *clauses)
    query = query.group_by(type_, step, saga.c.error).order_by(func.count().desc(), saga.c.error, type_)
    return [
        Burst(kind, step, error, least if least == most and texts == size else None, size, first, last, example)
        for kind, step, error, least, most, texts, size, first, last, example in connection.execute(query)
    ]


def alike(connection: Connection, instance: Instance, now: int) -> int:
    """Count the other sagas that met a saga's error within the last hour."""
    told = instance.cause
    if told is None or not told.get("error"):
        return 0
    step = cause(connection, "step")
    since = now - RECENT
    query = select(func.count()).where(
        saga.c.error == told["error"],
        saga.c.updated_at >= since,
        saga.c.type == instance.type,
        saga.c.id != instance.id,
        step.is_(None) if told.get("step") is None else step == told["step"],
        cast(cause(connection, "at"), BigInteger) >= since,
    )
    return int(connection.execute(query).scalar_one())


def signature(type_: str, step: str | None, error: str) -> str:
    """Name an error by what sagas share that have it: eight hexadecimal digits."""
    return blake2b(f"{type_}\n{step or ''}\n{error}".encode(), digest_size=4).hexdigest()


def runbook(definitions: Mapping[tuple[str, int], Definition], type_: str, step: str | None) -> str | None:
    """Say where the newest version of a saga has a runbook for a step: tag `runbook.STEP`, else `runbook`."""
    versions = [version for known, version in definitions if known == type_]
    if not versions:
        return None
    tags = definitions[type_, max(versions)].tags
    return tags.get(f"runbook.{step}") or tags.get("runbook")
