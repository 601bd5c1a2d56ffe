"""What the coordinator keeps of durations: one sketch for each week and each thing that takes time, merged on writing.

A sketch (DDSketch) tells any quantile within one per cent of its value and can be merged, so any number of coordinators
write into one. What is usual is computed of the newest weeks that hold enough; older ones count no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from ddsketch import DDSketch
from ddsketch.pb import ddsketch_pb2
from ddsketch.pb.proto import DDSketchProto
from google.protobuf.message import DecodeError
from sqlalchemy import Connection, Table, delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from ..events.clock import SECOND
from ..events.database import Database
from .pace import Stretch, Usual, lasted
from .tables import duration, usual
from .work import Moved

log = structlog.get_logger("choreo.coordinator")

WEEK = 7 * 24 * 3_600 * SECOND
ENOUGH = 500
"""So many durations are what is usual made of, where the present week and the one before hold fewer."""

KEPT_WEEKS = 53
ACCURACY = 0.01
_PROTO: Any = DDSketchProto  # it says nothing of its types
_EVERY = 5 * SECOND
_MOST_WAITING = 20_000
_CHUNK = 200


class Slot(NamedTuple):
    """Which sketch: of which saga type, what takes time, and the week in which it ended, microseconds."""

    type: str
    kind: str
    step: str
    week: int

    @property
    def stretch(self) -> Stretch:
        """What takes time."""
        return Stretch(self.kind, self.step)  # type: ignore[arg-type]

    @property
    def whole(self) -> tuple[str, str, str]:
        """The same in all weeks."""
        return self[:3]


class Week(NamedTuple):
    """One week of one thing that takes time: how many durations, their sum in microseconds, and their sketch."""

    slot: Slot
    size: int
    total: int
    sketch: Any


class Durations:
    """Collects durations and writes them down now and then: nothing is written for each event.

    What a killed process had collected in its last seconds is lost; quantiles do not notice.

    Args:
        database: the store.

    Attributes:
        collected: durations that are not written yet, microseconds.
        waiting: how many there are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.collected: dict[Slot, list[int]] = {}
        self.waiting = 0
        self._next = 0

    def note(self, moves: Iterable[Moved]) -> None:
        """Collect what these moves ended."""
        for _, before, after in moves:
            for stretch, took, at in lasted(before, after):
                slot = (after.type, *stretch, at - at % WEEK)
                known = self.collected.get(slot)  # type: ignore[call-overload] # a plain tuple finds its equal
                if known is None:
                    self.collected[Slot(*slot)] = [took]
                else:
                    known.append(took)
                self.waiting += 1

    async def step(self, now: int) -> None:
        """Write what was collected, if it is time to.

        Args:
            now: the store's clock.
        """
        if self.waiting and (now >= self._next or self.waiting >= _MOST_WAITING):
            await self._database.write(self.write)
            self.collected, self.waiting = {}, 0
            self._next = now + _EVERY

    def write(self, connection: Connection) -> None:
        """Write what was collected, within a write."""
        record(connection, self.collected)


def record(connection: Connection, collected: Mapping[Slot, Sequence[int]]) -> dict[tuple[str, Stretch], Usual]:
    """Merge durations into the store, and compute anew what is usual.

    Args:
        connection: within a write.
        collected: durations in microseconds.

    Returns:
        What is usual now, by saga type and what takes time, for all that was collected.
    """
    slots = sorted(collected)
    if not slots:
        return {}
    new = [{**slot._asdict(), "size": 0, "total": 0, "sketch": b""} for slot in slots]
    insert = _insert(connection, duration)
    connection.execute(insert.on_conflict_do_nothing(), new)
    known = {week.slot: week for week in _weeks(connection, slots, lock=True)}
    rows = []
    for slot in slots:
        before, sketch = known[slot], _read(known[slot].sketch, slot)
        for took in collected[slot]:
            sketch.add(took)
        total = before.total + sum(collected[slot])
        rows.append({**slot._asdict(), "size": int(sketch.count), "total": total, "sketch": _written(sketch)})
    values = {name: insert.excluded[name] for name in ("size", "total", "sketch")}
    connection.execute(insert.on_conflict_do_update(index_elements=list(Slot._fields), set_=values), rows)
    return _conclude(connection, {slot.whole for slot in slots})


def _conclude(connection: Connection, things: set[tuple[str, str, str]]) -> dict[tuple[str, Stretch], Usual]:
    """Compute what is usual, write it down, and forget what is too old."""
    columns = (duration.c.type, duration.c.kind, duration.c.step, duration.c.week, duration.c.size)
    query = select(*columns).where(duration.c.type.in_(sorted({type_ for type_, _, _ in things})))
    chosen: dict[tuple[str, str, str], list[tuple[Slot, int]]] = {}
    old: list[Slot] = []
    for row in connection.execute(query.order_by(duration.c.week.desc())):
        slot = Slot(*row[:4])
        if slot.whole not in things:
            continue
        weeks = chosen.setdefault(slot.whole, [])
        newest = weeks[0][0].week if weeks else slot.week
        if slot.week <= newest - KEPT_WEEKS * WEEK:
            old.append(slot)
        elif slot.week >= newest - WEEK or sum(count for _, count in weeks) < ENOUGH:
            weeks.append((slot, row.size))
    weeks_of: dict[tuple[str, str, str], list[Week]] = {}
    for week in _weeks(connection, [slot for weeks in chosen.values() for slot, _ in weeks]):
        weeks_of.setdefault(week.slot.whole, []).append(week)
    found, rows = {}, []
    for (type_, kind, step), weeks_ in sorted(weeks_of.items()):
        made = usual_of(weeks_)
        found[type_, weeks_[0].slot.stretch] = made
        rows.append({"type": type_, "kind": kind, "step": step, **made._asdict()})
    insert = _insert(connection, usual)
    values = {name: insert.excluded[name] for name in Usual._fields}
    connection.execute(insert.on_conflict_do_update(index_elements=["type", "kind", "step"], set_=values), rows)
    for start in range(0, len(old), _CHUNK):
        connection.execute(delete(duration).where(_places(old[start : start + _CHUNK])))
    return found


def usual_of(weeks: Iterable[Week]) -> Usual:
    """Compute what is usual of some weeks."""
    merged = DDSketch(ACCURACY)
    for week in weeks:
        merged.merge(_read(week.sketch, week.slot))
    p50, p95, p99 = (round(merged.get_quantile_value(share) or 0) for share in (0.5, 0.95, 0.99))
    return Usual(int(merged.count), p50, p95, p99)


def weeks_of(connection: Connection, types: Sequence[str] = ()) -> list[Week]:
    """Load all weeks, of some saga types or of all, in the order of their slots."""
    query = select(duration).order_by(*(duration.c[name] for name in Slot._fields))
    if types:
        query = query.where(duration.c.type.in_(types))
    return [_week(row) for row in connection.execute(query)]


def _weeks(connection: Connection, slots: Sequence[Slot], *, lock: bool = False) -> list[Week]:
    found = []
    for start in range(0, len(slots), _CHUNK):
        query = select(duration).where(_places(slots[start : start + _CHUNK]))
        query = query.order_by(*(duration.c[name] for name in Slot._fields))
        found += [_week(row) for row in connection.execute(query.with_for_update() if lock else query)]
    return found


def _insert(connection: Connection, table: Table) -> Any:
    return (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)


def _places(slots: Sequence[Slot]) -> Any:
    return tuple_(duration.c.type, duration.c.kind, duration.c.step, duration.c.week).in_([tuple(s) for s in slots])


def _week(row: Any) -> Week:
    return Week(Slot(row.type, row.kind, row.step, row.week), row.size, row.total, row.sketch)


def _read(data: bytes, slot: Slot) -> Any:
    """Read a sketch; one that cannot be read begins anew, for statistics stop no coordinator."""
    if not data:
        return DDSketch(ACCURACY)
    try:
        message = ddsketch_pb2.DDSketch()
        message.ParseFromString(data)
        return _PROTO.from_proto(message)
    except (DecodeError, ValueError) as error:
        log.warning("a sketch of durations cannot be read and begins anew", slot=str(slot), error=type(error).__name__)
        return DDSketch(ACCURACY)


def _written(sketch: Any) -> bytes:
    written: bytes = _PROTO.to_proto(sketch).SerializeToString()
    return written
