"""What people ask for: rows in the store, which works with Kafka down; only a coordinator applies them (ruling R17)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError
from sqlalchemy import Connection, Select, insert, or_, select, update

from ..events.clock import system_clock
from ..events.envelope import Record
from ..events.errors import ConfigurationError, EventError, Refused
from ..events.ids import derived_id, new_id
from . import audit, erasure, jobs, moving, store, ticks, timers
from .audit import Who
from .batch import Batch
from .inputs import Operator, OperatorKind
from .instance import Instance
from .knowledge import Knowledge
from .names import parse_saga_id
from .needs import needed_by
from .occurrence import base_of
from .outputs import read_output
from .schedule import tick_name
from .starting import start_record
from .tables import command, sent

PENDING = "pending"
APPLIED = "applied"
REFUSED = "refused"

_MOST = 200
FAR = 1 << 62
ON_ONE = frozenset(get_args(OperatorKind))
"""What is asked of one saga."""

_UNTOLD = frozenset(("data", "sagas", "hash"))
"""Arguments that no audit repeats: payloads, and what is there already."""


class Asked(NamedTuple):
    """A command row."""

    id: str
    saga_id: str | None
    kind: str
    arguments: dict[str, Any]
    by: str
    reason: str


class Answer(NamedTuple):
    """What became of a command: pending, applied or refused, with a sentence."""

    state: str
    result: str


def ask(
    connection: Connection,
    kind: str,
    *,
    saga_id: str | None = None,
    by: str | Who,
    reason: str = "",
    id: str | None = None,  # noqa: A002 - the column's name
    at: int | None = None,
    **arguments: Any,
) -> str:
    """Write a command row, and who asks for it into the audit; give its id.

    Args:
        connection: within a write.
        kind: what to do.
        saga_id: the saga that it is about.
        by, reason: who and why, for the record.
        id, at: of the command; default: a fresh id, and this machine's clock in microseconds.
        arguments: what the kind needs.
    """
    id_ = new_id() if id is None else id
    who = by if isinstance(by, Who) else Who(by)
    at = system_clock() if at is None else at
    row = {
        "id": id_,
        "saga_id": saga_id,
        "kind": kind,
        "arguments": json.dumps(arguments),
        "by": who.by,
        "reason": reason,
        "at": at,
        "state": PENDING,
    }
    connection.execute(insert(command), row)
    audit.record(
        connection,
        kind,
        who,
        outcome=audit.ASKED,
        target=saga_id or arguments.get("type"),
        reason=reason,
        details=_told(kind, arguments),
        command_id=id_,
        at=at,
    )
    return id_


def _told(kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Say of a command's arguments what the audit may repeat."""
    if kind == erasure.KIND:
        return {"key": erasure.hashed(str(arguments.get("type") or ""), str(arguments["key"]))}
    return {name: value for name, value in arguments.items() if name not in _UNTOLD}


def answer(connection: Connection, id_: str) -> Answer:
    """Read what became of a command."""
    row = connection.execute(select(command.c.state, command.c.result).where(command.c.id == id_)).one()
    return Answer(row.state, row.result or "")


def any_pending(connection: Connection, loaded: Iterable[tuple[str, int]] | None = None) -> bool:
    """Tell whether a command waits, or only one for a coordinator with these versions' code."""
    return connection.execute(_any_pending(None if loaded is None else tuple(loaded))).first() is not None


@lru_cache(maxsize=64)
def _any_pending(loaded: tuple[tuple[str, int], ...] | None) -> Select[Any]:
    return _pending(select(command.c.id), loaded).limit(1)


def take(connection: Connection, loaded: Iterable[tuple[str, int]]) -> list[Asked]:
    """Lock the commands that wait, in the order in which they were written; moves only to versions of this code."""
    query = _pending(select(command), loaded).order_by(command.c.at, command.c.id).limit(_MOST)
    rows = connection.execute(query.with_for_update(skip_locked=True)).all()
    return [Asked(row.id, row.saga_id, row.kind, json.loads(row.arguments), row.by, row.reason) for row in rows]


def _pending(query: Select[Any], loaded: Iterable[tuple[str, int]] | None) -> Select[Any]:
    if loaded is None:
        return query.where(command.c.state == PENDING)
    ours = [moving.target(type_, version) for type_, version in loaded]
    mine = or_(command.c.kind != moving.KIND, command.c.saga_id.in_(ours))
    return query.where(command.c.state == PENDING, mine)


def keys_of(asked: Iterable[Asked]) -> set[tuple[str, str]]:
    """Give type and key of the sagas that commands are about, to lock them all at once, in order."""
    found = set()
    for each in asked:
        if each.saga_id and each.kind != "start":
            try:
                name = parse_saga_id(each.saga_id)
            except ConfigurationError:
                continue  # it is refused when it is applied
            found.add((name.type, name.key))
    return found


def obey(batch: Batch) -> None:
    """Apply what people ask for, of one saga or of many."""
    jobs.feed(batch.connection, batch.now)
    asked = take(batch.connection, batch.knowledge.declarations)
    batch.load_keys(keys_of(asked))
    for each in asked:
        apply(batch, each)


def apply(batch: Batch, asked: Asked) -> None:
    """Apply one command within a batch and write its answer."""
    try:
        answered = Answer(APPLIED, _apply(batch, asked))
    except (Refused, ConfigurationError) as error:
        answered = Answer(REFUSED, error.message)
    batch.connection.execute(
        update(command)
        .where(command.c.id == asked.id)
        .values(state=answered.state, result=answered.result, done_at=batch.now)
    )
    if asked.kind == erasure.KIND and answered.state == APPLIED:
        return  # it has written its own row, which says what it has taken from the others
    step = asked.arguments.get("step")
    audit.record(
        batch.connection,
        asked.kind,
        audit.asked_by(batch.connection, str(asked.arguments.get("job") or asked.id)) or Who(asked.by),
        outcome=answered.state,
        target=asked.saga_id or asked.arguments.get("type"),
        reason=asked.reason,
        details={"result": answered.result, **({"step": step} if step else {})},
        command_id=asked.id,
        at=batch.now,
    )


def _apply(batch: Batch, asked: Asked) -> str:
    match asked.kind:
        case "start":
            return _start(batch, asked)
        case "stop":
            store.set_switch(batch.connection, timers.UNDO, timers.STOPPED, batch.now, asked.by)
            held = update(sent).where(sent.c.release_at.isnot(None)).values(release_at=FAR)
            batch.connection.execute(held)
            return "compensation is stopped; `saga resume` lets it go on"
        case "resume" if asked.saga_id is None:
            store.set_switch(batch.connection, timers.UNDO, "", batch.now, asked.by)
            timers.let_through(batch.connection, batch.now, asked.by)
            batch.connection.execute(update(sent).where(sent.c.release_at == FAR).values(release_at=batch.now))
            return "timers and compensation go on"
        case "pause-schedule":
            row = ticks.pause(batch.connection, str(asked.arguments.get("type")), asked.by, asked.reason, batch.now)
            return f"the schedule of {row.type} is paused"
        case "resume-schedule":
            row = ticks.resume(batch.connection, str(asked.arguments.get("type")), asked.by, asked.reason, batch.now)
            following = "never" if row.next_at is None else tick_name(row.next_at)
            return f"the schedule of {row.type} goes on, next {following}"
        case _ if asked.kind in ON_ONE:
            return _operate(batch, asked)
        case erasure.KIND:
            who = audit.asked_by(batch.connection, asked.id) or Who(asked.by)
            return erasure.apply(batch, asked.id, asked.arguments, who, asked.reason)
        case moving.KIND:
            return moving.apply(batch, asked.saga_id or "", asked.arguments, asked.by, asked.reason)
    raise Refused(f"{asked.kind!r} is not a command that this coordinator knows")


def _operate(batch: Batch, asked: Asked) -> str:
    name = parse_saga_id(asked.saga_id or "")
    batch.load_keys([(name.type, name.key)])
    work = batch.saga(name.type, name.key, name.run)
    if work is None:
        raise Refused(f"there is no saga {asked.saga_id}")
    input_ = Operator(asked.id, asked.kind, asked.by, asked.reason, asked.arguments.get("step"))  # type: ignore[arg-type]
    if asked.kind == "skip":
        _check_needs(batch, work.instance, input_.step or "")
    if asked.kind == "resume":
        work.causes = {read_output(each.output): each.cause for each in work.instance.held}
    transition = batch.apply(work, input_)
    work.causes = {}
    if transition.verdict == "ignored":
        raise Refused(transition.reason)
    paused = ", paused" if work.instance.paused is not None else ""
    return f"{work.instance.id} is {work.instance.phase}{paused}"


def _check_needs(batch: Batch, instance: Instance, step: str) -> None:
    """Refuse to go without a step that something later is made of; whoever has the code knows."""
    declaration = batch.knowledge.declarations.get((instance.type, instance.version))
    if declaration is None or base_of(step) not in declaration.definition.by_name:
        return
    if missing := needed_by(declaration, instance, step):
        raise Refused(f"{step} cannot be skipped: {missing}")


def _start(batch: Batch, asked: Asked) -> str:
    type_ = str(asked.arguments.get("type"))
    declaration = batch.knowledge.newest.get(type_)
    if declaration is None:
        raise Refused(f"saga type {type_!r} is not loaded by this coordinator")
    event_type = str(asked.arguments.get("event") or declaration.definition.start[0])
    if event_type not in declaration.definition.start:
        raise Refused(f"{event_type} does not start {type_}; one of {', '.join(declaration.definition.start)} does")
    batch.records.append(_start_record(batch.knowledge, declaration.events[event_type], asked, batch.now))
    return f"{event_type} is published"


def _start_record(knowledge: Knowledge, cls: Any, asked: Asked, now: int) -> Record:
    try:
        event = cls.model_validate(asked.arguments.get("data") or {})
        return start_record(event, derived_id("start", asked.id), "choreo/operator", now, knowledge.codec)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join([cls.__name__, *(str(part) for part in first["loc"])])
        raise Refused(f"{place}: {first['msg']}") from None
    except EventError as error:
        raise Refused(error.message) from error
