"""The schedules in the store: which ticks are due, and who fires them. Plain functions of a connection.

A tick belongs to whoever moves the schedule's `next_at` on; the start event leaves through the outbox of the same
transaction, under an id made of the saga's type and the tick. So there is one for each tick, whatever dies when.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import structlog
from pydantic import ValidationError
from sqlalchemy import ColumnElement, Connection, delete, false, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ..events.clock import SECOND
from ..events.codec import Codec
from ..events.envelope import Record
from ..events.errors import ChoreoError, EventError, Refused
from ..events.event import Event
from ..events.ids import derived_id
from .declaration import Declaration
from .definition import Definition
from .schedule import SchedulePlan, tick_name
from .starting import start_record
from .tables import schedule

log = structlog.get_logger("choreo.coordinator")

AGAIN = 60 * SECOND
"""Pause after a tick whose start event could not be made."""


class ScheduleRow(NamedTuple):
    """One schedule as the store has it; times are microseconds."""

    type: str
    version: int
    cron: str
    zone: str
    missed: str
    next_at: int | None
    look_at: int | None
    last_at: int | None
    paused: bool
    changed_at: int
    by: str
    reason: str
    error: str | None

    @property
    def plan(self) -> SchedulePlan:
        """When it fires."""
        return SchedulePlan(self.cron, self.zone, self.missed)  # type: ignore[arg-type]


def register(
    connection: Connection,
    newest: Mapping[str, Declaration],
    known: Collection[tuple[str, int]],
    begins: Mapping[str, int],
    now: int,
) -> None:
    """Write down the schedules of what a coordinator has loaded; where another one knows a newer version, that counts.

    A schedule that is new or has changed fires first at its first tick from now on, and not before its saga's history
    begins; one that is there already goes on where it was, so that what was missed meanwhile is known.

    Args:
        connection: within a write.
        newest: by saga type, the newest version that is loaded.
        known: type and version of every registered definition.
        begins: where the history of each type begins, microseconds.
        now: the store's clock.
    """
    for type_, declaration in sorted(newest.items()):
        definition = declaration.definition
        if max(version for known_type, version in known if known_type == type_) > definition.version:
            continue
        _register(connection, definition, begins.get(type_, 0), now)


def _register(connection: Connection, definition: Definition, begins: int, now: int) -> None:
    plan, same = _live(definition), schedule.c.type == definition.type
    if plan is None:
        connection.execute(delete(schedule).where(same))
        return
    row = connection.execute(select(schedule).where(same).with_for_update()).first()
    values: dict[str, Any] = {
        "version": definition.version,
        "cron": plan.cron,
        "zone": plan.zone,
        "missed": plan.missed,
    }
    if row is None or (row.cron, row.zone) != (plan.cron, plan.zone):
        first = plan.after(max(now, begins))
        values.update(next_at=first, look_at=first, error=None)
    if row is not None:
        connection.execute(update(schedule).where(same).values(values))
        return
    values.update(type=definition.type, paused=False, changed_at=now, by="", reason="")
    upsert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    # Two coordinators may start at once: the second leaves the row of the first.
    connection.execute(upsert(schedule).values(values).on_conflict_do_nothing())


def fire(connection: Connection, newest: Mapping[str, Declaration], codec: Codec, now: int) -> list[Record]:
    """Fire what is due; give the start events to publish with this transaction.

    Args:
        connection: within a write.
        newest: by saga type, the newest version that is loaded.
        codec: prepared for the start events.
        now: the store's clock.
    """
    records: list[Record] = []
    if not any_due(connection, newest, now):
        return records
    query = select(schedule).where(*_due(newest, now)).order_by(schedule.c.type)
    for row in connection.execute(query.with_for_update(skip_locked=True)).all():
        records += _fire(connection, ScheduleRow(*row), newest[row.type], codec, now)
    return records


def _fire(connection: Connection, row: ScheduleRow, declaration: Declaration, codec: Codec, now: int) -> list[Record]:
    plan, records = row.plan, []
    assert row.next_at is not None
    due = plan.until(row.next_at, now)
    fired, error = row.last_at, None
    for tick in due:
        try:
            records.append(_record(declaration, plan, tick, codec))
        except Exception as raised:  # a user's function: no tick of its own may stop the others' sagas
            error = raised.message if isinstance(raised, ChoreoError) else type(raised).__name__
            if error != row.error:  # it is tried again every minute
                log.error("a start event cannot be made", saga_type=row.type, tick=tick_name(tick), error=error)
            break
        fired = tick
    following = look_at = plan.after(due[-1] if plan.missed == "all" and due else now)  # all: more may be left
    if error is not None:
        following, look_at = due[len(records)], now + AGAIN
    moved = update(schedule).where(schedule.c.type == row.type, schedule.c.next_at == row.next_at)
    values = {"next_at": following, "look_at": look_at, "last_at": fired, "error": error}
    done = connection.execute(moved.values(values))
    return records if done.rowcount == 1 else []


def _record(declaration: Declaration, plan: SchedulePlan, tick: int, codec: Codec) -> Record:
    definition = declaration.definition
    event = start_event(declaration, plan, tick)
    id_ = derived_id("tick", definition.type, tick_name(tick))
    return start_record(event, id_, f"choreo/{definition.type}", tick, codec)


def start_event(declaration: Declaration, plan: SchedulePlan, tick: int) -> Event:
    """Make the start event of a tick.

    Raises:
        EventError: the function gave something else, or what it gave starts no saga of this type.
    """
    definition = declaration.definition
    if declaration.tick is not None:
        made = declaration.tick(plan.local(tick))
        if not isinstance(made, Event) or made.spec().type not in definition.start:
            raise EventError(f"the start function of {definition.type} gave {type(made).__name__}")
        return made
    cls = declaration.events[definition.start[0]]
    keys = {cls.spec().key, definition.key_field(definition.start[0]) or definition.key}
    try:
        return cls.model_validate(dict.fromkeys(keys, tick_name(tick)))
    except ValidationError as error:
        raise EventError(f"{cls.__name__} cannot be made of a tick: {error.error_count()} fields") from None


def any_due(connection: Connection, newest: Mapping[str, Declaration], now: int) -> bool:
    """Tell whether a schedule is due."""
    if all(_live(declaration.definition) is None for declaration in newest.values()):
        return False
    query = select(schedule.c.type).where(*_due(newest, now)).limit(1)
    return connection.execute(query).first() is not None


def next_due(connection: Connection, after: int) -> int | None:
    """Tell when the next schedule is due after a time; those that are paused never are."""
    query = select(func.min(schedule.c.look_at)).where(schedule.c.look_at > after, schedule.c.paused.is_(False))
    return connection.execute(query).scalar()


def _due(newest: Mapping[str, Declaration], now: int) -> tuple[ColumnElement[bool], ...]:
    """Those that are due and of the version that is loaded here: after an update only the newest one fires."""
    mine = [
        (schedule.c.type == type_) & (schedule.c.version == declaration.definition.version)
        for type_, declaration in sorted(newest.items())
        if _live(declaration.definition) is not None
    ]
    return (schedule.c.look_at <= now, schedule.c.paused.is_(False), or_(false(), *mine))


def _live(definition: Definition) -> SchedulePlan | None:
    return None if definition.observe_only else definition.schedule


# ---- people --------------------------------------------------------------------------------------------------------


def all_schedules(connection: Connection) -> list[ScheduleRow]:
    """List every schedule, by saga type."""
    return [ScheduleRow(*row) for row in connection.execute(select(schedule).order_by(schedule.c.type))]


def pause(connection: Connection, type_: str, by: str, reason: str, now: int) -> ScheduleRow:
    """Let no tick of a schedule fire until it is resumed.

    Raises:
        Refused: there is none, or it is paused already.
    """
    row = _find(connection, type_)
    if row.paused:
        raise Refused(f"the schedule of {type_} is paused already, by {row.by or 'somebody'}")
    return _set(connection, row, now, paused=True, by=by, reason=reason)


def resume(connection: Connection, type_: str, by: str, reason: str, now: int) -> ScheduleRow:
    """Let a schedule go on with its next tick; those while it was paused do not fire.

    Raises:
        Refused: there is none, or it is not paused.
    """
    row = _find(connection, type_)
    if not row.paused:
        raise Refused(f"the schedule of {type_} is not paused")
    following = row.plan.after(now)
    return _set(connection, row, now, paused=False, by=by, reason=reason, next_at=following, look_at=following)


def _find(connection: Connection, type_: str) -> ScheduleRow:
    row = connection.execute(select(schedule).where(schedule.c.type == type_).with_for_update()).first()
    if row is None:
        raise Refused(f"saga type {type_!r} has no schedule; `saga schedules` lists those that have one")
    return ScheduleRow(*row)


def _set(connection: Connection, row: ScheduleRow, now: int, **values: Any) -> ScheduleRow:
    connection.execute(update(schedule).where(schedule.c.type == row.type).values(changed_at=now, **values))
    return row._replace(changed_at=now, **values)
