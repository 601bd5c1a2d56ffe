"""What people ask of many sagas at once: a job with an id, which a coordinator works off a few at a time.

A job is its rows: each target once, and whether it was asked for. A part of it goes out as commands like any other, in
one transaction with the note that it did, under ids that follow from job and target. So whoever is killed in the
middle, the command line or the coordinator, nothing is lost and nothing is asked twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, bindparam, func, insert, select, update

from ..events.clock import SECOND
from ..events.errors import Refused, SagaNotFound
from ..events.ids import derived_id
from . import audit
from .audit import Who
from .tables import command, job, job_item

State = Literal["running", "paused", "aborted", "done"]
PENDING = "pending"
ASKED = "asked"

_MOST = 200
"""Targets that one transaction asks for at most: they are all locked in it."""

_LOOK = SECOND // 5
"""Between two looks at a job."""

_CHUNK = 1_000


class Job(NamedTuple):
    """A job, as its row has it."""

    id: str
    kind: str
    arguments: Mapping[str, Any]
    about: str
    by: str
    reason: str
    rate: int
    total: int
    state: str
    at: int
    done_at: int | None


class Progress(NamedTuple):
    """A job with how many of its targets are where."""

    job: Job
    pending: int
    asked: int
    applied: int
    refused: int

    @property
    def done(self) -> int:
        """How many are over, well or not."""
        return self.applied + self.refused


class Item(NamedTuple):
    """One target of a job, and what became of it."""

    target: str
    state: str
    result: str | None


def create(
    connection: Connection,
    id_: str,
    kind: str,
    targets: Sequence[str],
    who: Who,
    *,
    reason: str,
    about: str,
    rate: int,
    now: int,
    by_hand: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> None:
    """Write a job down; a coordinator begins with it at once.

    Args:
        connection: within a write.
        id_: of the job.
        kind: what is asked of each target.
        targets: each once; a second mention is no second target.
        who, reason: for the record.
        about: how they were chosen, for people.
        rate: at most so many per second.
        now: the store's clock, microseconds.
        by_hand: who made it works it off, not the coordinator.
        arguments: what the kind needs.
    """
    names = list(dict.fromkeys(targets))
    row: dict[str, Any] = {
        "id": id_,
        "kind": kind,
        "arguments": json.dumps(dict(arguments or {})),
        "about": about,
        "by": who.by,
        "reason": reason,
    }
    row |= {"rate": rate, "total": len(names), "state": "running", "at": now, "next_at": None if by_hand else now}
    connection.execute(insert(job), row)
    for start in range(0, len(names), _CHUNK):
        part = enumerate(names[start : start + _CHUNK], start=start)
        rows = [{"job_id": id_, "target": name, "nth": nth, "state": PENDING} for nth, name in part]
        connection.execute(insert(job_item), rows)
    details = {"targets": len(names), "chosen": about, **(arguments or {})}
    audit.record(
        connection,
        f"batch {kind}",
        who,
        outcome=audit.ASKED,
        target=id_,
        reason=reason,
        details=details,
        command_id=id_,
        at=now,
    )


def any_due(connection: Connection, now: int) -> bool:
    """Tell whether a job has a part to be done."""
    return connection.execute(_ANY_DUE, {"now": now}).first() is not None


_ANY_DUE = select(job.c.id).where(job.c.next_at <= bindparam("now")).limit(1)


def feed(connection: Connection, now: int) -> None:
    """Ask for the next part of each job that is due, and note what became of those before.

    Args:
        connection: within a write.
        now: the store's clock, microseconds.
    """
    due = select(job).where(job.c.next_at <= now).order_by(job.c.at, job.c.id).with_for_update(skip_locked=True)
    for row in connection.execute(due).all():
        _settle(connection, row.id)
        elapsed = min(now - row.next_at + _LOOK, 10 * _LOOK)
        room = min(_MOST, max(1, row.rate * elapsed // SECOND))
        query = select(job_item.c.target).where(job_item.c.job_id == row.id, job_item.c.state == PENDING)
        names = list(connection.execute(query.order_by(job_item.c.nth).limit(room)).scalars())
        if names:
            _ask(connection, row, names, now)
        elif not _open(connection, row.id):
            _end(connection, row.id, "done", now)
            continue
        pause = max(_LOOK, len(names) * SECOND // row.rate)
        connection.execute(update(job).where(job.c.id == row.id).values(next_at=now + pause))


def _ask(connection: Connection, row: Any, names: Sequence[str], now: int) -> None:
    ids = {name: derived_id("job", row.id, name) for name in names}
    arguments = json.dumps({**json.loads(row.arguments), "job": row.id})
    told = {"kind": row.kind, "arguments": arguments, "by": row.by, "reason": row.reason, "at": now, "state": PENDING}
    connection.execute(insert(command), [{"id": ids[name], "saga_id": name, **told} for name in names])
    for name in names:
        same = (job_item.c.job_id == row.id, job_item.c.target == name)
        connection.execute(update(job_item).where(*same).values(state=ASKED, command_id=ids[name]))


def _settle(connection: Connection, id_: str) -> None:
    """Note what became of what was asked for."""
    query = select(job_item.c.target, command.c.state, command.c.result)
    query = query.join(command, command.c.id == job_item.c.command_id)
    query = query.where(job_item.c.job_id == id_, job_item.c.state == ASKED, command.c.state != PENDING)
    for target, state, result in connection.execute(query).all():
        settle(connection, id_, target, state, result)


def settle(connection: Connection, id_: str, target: str, state: str, result: str | None) -> None:
    """Note what became of one target."""
    same = (job_item.c.job_id == id_, job_item.c.target == target)
    connection.execute(update(job_item).where(*same).values(state=state, result=result))


def settle_many(connection: Connection, id_: str, targets: Sequence[str], now: int) -> None:
    """Note that these targets of a job that is worked off by hand are done; with the last one it ends."""
    for target in targets:
        settle(connection, id_, target, "applied", None)
    if not _open(connection, id_):
        _end(connection, id_, "done", now)


def _open(connection: Connection, id_: str) -> bool:
    query = select(job_item.c.target).where(job_item.c.job_id == id_, job_item.c.state.in_((PENDING, ASKED)))
    return connection.execute(query.limit(1)).first() is not None


def _end(connection: Connection, id_: str, state: State, now: int) -> None:
    connection.execute(update(job).where(job.c.id == id_).values(state=state, next_at=None, done_at=now))


def turn(
    connection: Connection, id_: str, what: Literal["pause", "resume", "abort"], who: Who, now: int, *, reason: str = ""
) -> str:
    """Pause, resume or abort a job; give its new state.

    Args:
        connection: within a write.
        id_: of the job.
        what: to do.
        who, reason: for the record.
        now: the store's clock, microseconds.

    Raises:
        SagaNotFound: there is no such job.
        Refused: it is not in a state for it.
    """
    row = connection.execute(select(job.c.state, job.c.kind).where(job.c.id == id_).with_for_update()).first()
    if row is None:
        raise SagaNotFound(f"there is no batch {id_!r}; saga batch list shows them")
    wanted = {"pause": ("running",), "resume": ("paused",), "abort": ("running", "paused")}[what]
    if row.state not in wanted:
        raise Refused(f"batch {id_} cannot be {_WORDS[what]}: it is {row.state}")
    if what == "abort":
        _end(connection, id_, "aborted", now)
    else:
        by_hand = row.kind.startswith("dlq")
        values: dict[str, Any] = {"state": "paused", "next_at": None}
        if what == "resume":
            values = {"state": "running", "next_at": None if by_hand else now}
        connection.execute(update(job).where(job.c.id == id_).values(**values))
    audit.record(connection, f"batch {what}", who, outcome=audit.DONE, target=id_, reason=reason, at=now)
    return str(connection.execute(select(job.c.state).where(job.c.id == id_)).scalar_one())


_WORDS = {"pause": "paused", "resume": "resumed", "abort": "aborted"}


def progress(connection: Connection, id_: str) -> Progress:
    """Say how far a job is.

    Raises:
        SagaNotFound: there is none.
    """
    row = connection.execute(select(job).where(job.c.id == id_)).first()
    if row is None:
        raise SagaNotFound(f"there is no batch {id_!r}; saga batch list shows them")
    return _progress(connection, [row])[0]


def every(connection: Connection, limit: int | None = None) -> list[Progress]:
    """List jobs, the newest first."""
    rows = connection.execute(select(job).order_by(job.c.at.desc(), job.c.id).limit(limit)).all()
    return _progress(connection, rows)


def items(connection: Connection, id_: str, *, state: str = "", limit: int | None = None) -> list[Item]:
    """List a job's targets in their order."""
    query = select(job_item.c.target, job_item.c.state, job_item.c.result).where(job_item.c.job_id == id_)
    if state:
        query = query.where(job_item.c.state == state)
    return [Item(*row) for row in connection.execute(query.order_by(job_item.c.nth).limit(limit))]


def _progress(connection: Connection, rows: Sequence[Any]) -> list[Progress]:
    ids = [row.id for row in rows]
    counted = select(job_item.c.job_id, job_item.c.state, func.count()).where(job_item.c.job_id.in_(ids))
    found: dict[str, dict[str, int]] = {id_: {} for id_ in ids}
    for id_, state, number in connection.execute(counted.group_by(job_item.c.job_id, job_item.c.state)):
        found[id_][state] = number
    told = []
    for row in rows:
        made = Job._make(
            json.loads(row.arguments) if name == "arguments" else getattr(row, name) for name in Job._fields
        )
        told.append(Progress(made, *(found[row.id].get(state, 0) for state in (PENDING, ASKED, "applied", "refused"))))
    return told
