"""What was said in sagas of one key is taken out for ever; that they were, and how they went, stays.

Applied by a coordinator like every command. Of ended sagas go: the payloads and texts of their history, the texts of
their state, their commands, events that are parked for them, what people gave with their commands and as reasons, and
the same in the audit. What stays are types, ids, times, states and outcomes, so also the key, which is part of each
name. An open saga is refused: its next commands are made of what it has seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, func, or_, select, update

from ..events.errors import Refused
from . import audit
from .audit import Who
from .batch import Batch
from .instance import Instance
from .tables import alert, command, history, job_item, parked, saga, sent

KIND = "erase"
_NOTHING = "{}"
_SAID = {"message": "", "reason": "", "element": None, "lock": None, "value": None}
"""Fields of an input that may hold what somebody said, and what stands in their place."""


class Counts(NamedTuple):
    """What there is to erase, or what was erased.

    Args:
        sagas: those that have not been erased before.
        events: of their histories, with their payloads.
        commands: of sagas to services, as they went out.
        parked: events that wait for their saga.
        asked: what people asked for.
        audit: rows whose reason and details go.
    """

    sagas: int
    events: int
    commands: int
    parked: int
    asked: int
    audit: int

    @property
    def nothing(self) -> bool:
        """Whether there is nothing, or nothing any more."""
        return not any(self)

    def sentence(self) -> str:
        """Say it."""
        return ", ".join(
            f"{number:,} {word if number != 1 else word.replace('events', 'event').rstrip('s')}"
            for number, word in zip(
                self,
                ("sagas", "events of their history", "commands", "parked events", "asked commands", "audit rows"),
                strict=True,
            )
            if number
        )


def hashed(type_: str, key: str) -> str:
    """Name what was erased without repeating it: whoever knows the key can see that it was this one."""
    return "blake2b:" + blake2b(f"{type_}/{key}".encode(), digest_size=16).hexdigest()


def names(connection: Connection, type_: str, key: str) -> list[str]:
    """Name the sagas of a key, of one type or (type "") of all."""
    return list(connection.execute(select(saga.c.id).where(_of(saga, type_, key)).order_by(saga.c.id)).scalars())


def event_ids(connection: Connection, type_: str, key: str) -> list[str]:
    """Give the ids of all that these sagas have seen and sent: under them services keep what they answered."""
    ids = names(connection, type_, key)
    seen = connection.execute(select(history.c.event_id).where(history.c.saga_id.in_(ids))).scalars().all()
    out = connection.execute(select(sent.c.id).where(sent.c.saga_id.in_(ids))).scalars().all()
    return [*seen, *out]


def count(connection: Connection, type_: str, key: str) -> Counts:
    """Count what an erasure would take."""
    ids = names(connection, type_, key)
    whole = [id_ for id_ in ids if not _erased(connection, id_)]

    def number(table: Any, where: Any) -> int:
        return int(connection.execute(select(func.count()).select_from(table).where(where)).scalar_one())

    return Counts(
        len(whole),
        number(history, and_(history.c.saga_id.in_(whole), history.c.kind != "timer")),
        number(sent, sent.c.saga_id.in_(ids)),
        number(parked, _of(parked, type_, key)),
        number(command, and_(command.c.saga_id.in_(ids), or_(command.c.arguments != _NOTHING, command.c.reason != ""))),
        audit.count(connection, ids),
    )


def apply(batch: Batch, asked_id: str, arguments: Mapping[str, Any], who: Who, reason: str) -> str:
    """Erase what was said in the sagas of a key.

    Args:
        batch: one transaction.
        asked_id: the command, whose own mention of the key goes too.
        arguments: `key`, and `type` or "".
        who, reason: for the audit.

    Raises:
        Refused: one of them is open.
    """
    connection = batch.connection
    type_, key = str(arguments.get("type") or ""), str(arguments["key"])
    connection.execute(
        update(command).where(command.c.id == asked_id).values(arguments=json.dumps({"key": hashed(type_, key)}))
    )
    types = connection.execute(select(saga.c.type).where(_of(saga, type_, key)).distinct()).scalars().all()
    batch.load_keys([(each, key) for each in types])
    found = Counts(0, 0, 0, 0, 0, 0)
    works = [batch.saga(each, key, run) for each in types for run in _runs(connection, each, key)]
    for work in works:
        if work is not None and not work.instance.phase.ended:
            raise Refused(f"{work.instance.id} is {work.instance.phase}: its next steps are made of what it has seen")
        if work is not None and work.before is not None and work.before.seq != work.instance.seq:
            raise Refused(f"{work.instance.id} is changing in this moment; ask again")
    found = count(connection, type_, key)
    ids = [work.instance.id for work in works if work is not None]
    for work in works:
        if work is not None and work.instance.erased is None:
            work.instance = scrubbed(work.instance, batch.now)
            _scrub_saga(connection, work.instance)
    connection.execute(delete(sent).where(sent.c.saga_id.in_(ids)))
    connection.execute(delete(parked).where(_of(parked, type_, key)))
    connection.execute(update(alert).where(_of(alert, type_, key)).values(summary="erased", remedies="[]"))
    gone = {"arguments": _NOTHING, "reason": "", "result": None}
    connection.execute(update(command).where(command.c.saga_id.in_(ids)).values(**gone))
    connection.execute(update(job_item).where(job_item.c.target.in_(ids)).values(result=None))
    rows = audit.erase(connection, ids)
    told = {"key": hashed(type_, key), "counts": found._asdict(), "rows": rows}
    audit.record(
        connection,
        audit.ERASE,
        who,
        outcome="applied",
        target=type_ or None,
        reason=reason,
        details=told,
        command_id=asked_id,
        at=batch.now,
    )
    return "there is nothing, or nothing any more" if found.nothing else f"erased: {found.sentence()}"


def in_archive(connection: Connection, type_: str, key: str, now: int) -> int:
    """Erase what was said in the sagas of a key in an archive, where no coordinator is; give how many there were."""
    ids = names(connection, type_, key)
    whole = [id_ for id_ in ids if not _erased(connection, id_)]
    for id_ in whole:
        state = connection.execute(select(saga.c.state).where(saga.c.id == id_)).scalar_one()
        _scrub_saga(connection, scrubbed(Instance.from_json(state), now))
    connection.execute(delete(sent).where(sent.c.saga_id.in_(ids)))
    return len(whole)


def scrubbed(instance: Instance, now: int) -> Instance:
    """Take every text out of a saga's state that somebody may have said."""
    copy = instance.copy()
    copy.erased = now
    if copy.cause is not None:
        copy.cause = {**copy.cause, "message": ""}
    for step in copy.steps.values():
        step.message = None
    copy.conditions = {word: remark._replace(message="erased") for word, remark in copy.conditions.items()}
    copy.doubts = [doubt._replace(message="erased") for doubt in copy.doubts]
    if copy.lock is not None:
        copy.lock = replace(copy.lock, key="erased")
    copy.waiting, copy.held = [], []
    return copy


def _scrub_saga(connection: Connection, instance: Instance) -> None:
    connection.execute(update(saga).where(saga.c.id == instance.id).values(state=instance.to_json()))
    columns = (history.c.seq, history.c.kind, history.c.input, history.c.changes)
    rows = connection.execute(select(*columns).where(history.c.saga_id == instance.id)).all()
    for row in rows:
        kept = {name: _SAID.get(name, value) for name, value in json.loads(row.input).items()}
        changes = [[step, state, ""] for step, state, *_ in json.loads(row.changes)]
        values = {"input": json.dumps(kept), "changes": json.dumps(changes), "value": None, "reason": ""}
        same = (history.c.saga_id == instance.id, history.c.seq == row.seq)
        connection.execute(update(history).where(*same).values(**values))


def _of(table: Any, type_: str, key: str) -> Any:
    return and_(table.c.key == key, table.c.type == type_) if type_ else table.c.key == key


def _runs(connection: Connection, type_: str, key: str) -> Sequence[int]:
    return connection.execute(select(saga.c.run).where(_of(saga, type_, key)).order_by(saga.c.run)).scalars().all()


def _erased(connection: Connection, id_: str) -> bool:
    state = connection.execute(select(saga.c.state).where(saga.c.id == id_)).scalar_one()
    return Instance.from_json(state).erased is not None
