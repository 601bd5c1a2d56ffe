"""Alerts on their way: noted in the transaction that led to them, told once each, with what `saga why` says.

A row of `choreo_alert` is an occurrence. It is written by whoever sees it first, and told by whoever marks it as told:
the mark and the event stand in one transaction, the event in its outbox. So nothing is told twice, and what was noted
before a crash is told after it. Of many that are alike one event tells (`alert_bursts`), and all are marked with it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import structlog
from sqlalchemy import ColumnElement, Connection, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from ..events.clock import format_duration, to_datetime
from ..events.codec import Codec, to_record
from ..events.database import Database
from ..events.envelope import Envelope, Record
from ..events.errors import ChoreoError
from ..events.outbox import Relay
from ..events.transport import Transport
from ..events.waiting import happens
from . import quiet
from .alert_bursts import FEW, LATELY, Alike, Member, Waiting, burst, part
from .alerts import Alert, AlertRaised, in_words, of_moves, of_refused, stuck
from .batch import Batch
from .explaining import explain_saga
from .surroundings import Surroundings, look_around
from .tables import alert, saga
from .why import Explanation, explain
from .work import Moved

log = structlog.get_logger("choreo.coordinator")

_LOOKED_AT = 100
_PAUSE = 10.0
"""Seconds between two looks for sagas that are stuck, where one look shows all."""
_SHARE, _OF_TURN = 3.0, 9.0
"""Where it does not, a pause is so many times as long as the look: when sagas are due, and when all have their turn."""
_SURVEY = 5.0
_CHUNK = 500


def note(connection: Connection, alerts: Iterable[Alert]) -> int:
    """Write occurrences down, in the transaction that led to them; give how many there were.

    One that was noted before stays as it is.
    """
    rows = [{**each._asdict(), "remedies": json.dumps(each.remedies), "told_at": None} for each in alerts]
    if rows:
        upsert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        for start in range(0, len(rows), _CHUNK):
            connection.execute(upsert(alert).on_conflict_do_nothing(), rows[start : start + _CHUNK])
    return len(rows)


def any_untold(connection: Connection) -> bool:
    """Tell whether an alert waits to be told."""
    return connection.execute(select(alert.c.id).where(alert.c.told_at.is_(None)).limit(1)).first() is not None


class Alerting:
    """Tells alerts, and looks for sagas that are stuck; one for each coordinator.

    Args:
        database: the store.
        transport: an open broker.
        relay: of the store's outbox.
        codec: prepared for `AlertRaised`.
        group: of the coordinators.
        keep: how long told alerts are kept, microseconds; None for ever.
        stuck_after: how long a saga must have waited to count as stuck, microseconds; None: nobody looks.
        on: whether alerts are told at all.
    """

    def __init__(
        self,
        database: Database,
        transport: Transport,
        relay: Relay,
        codec: Codec,
        group: str,
        keep: int | None,
        stuck_after: int | None,
        *,
        on: bool,
    ) -> None:
        self._database = database
        self._transport = transport
        self._relay = relay
        self._codec = codec
        self._group = group
        self._keep = keep
        self._stuck_after = stuck_after
        self._on = on
        self._topics: Sequence[str] = ()
        self._wake = asyncio.Event()
        self._hurry = False
        self._turn = quiet.START
        self._next_look = 0.0
        self._task: asyncio.Task[None] | None = None

    def begin(self, topics: Sequence[str]) -> None:
        """Tell from now on, what is left over first.

        Args:
            topics: that sagas consume, for a look around.
        """
        self._topics = topics
        if self._on:
            self._task = asyncio.create_task(self._run(), name="choreo-alerts")

    def note(self, batch: Batch, moves: Iterable[Moved]) -> bool:
        """Write down what a transaction led to that somebody should hear of, within it; say whether there is any."""
        if not self._on:
            return False
        found = [*batch.alerts, *of_refused(batch.refused, batch.now), *of_moves(moves, batch.now)]
        if found:
            note(batch.connection, found)
        return bool(found)

    def committed(self, noted: bool) -> None:
        """Tell what a transaction has noted, now that it is committed."""
        if noted:
            self._wake.set()

    async def owes(self) -> bool:
        """Whether an alert waits to be told by this coordinator, or by another one; what is gathered is told then."""
        owed = self._on and await self._database.read(any_untold)
        if owed:
            self._hurry = True
            self._wake.set()
        return owed

    async def close(self) -> None:
        """Stop; what is not told yet is told by the next one."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        rest = 0.0
        while True:
            self._wake.clear()
            began = time.monotonic()
            try:
                while await self.tell():
                    pass
                rest = _SHARE * (time.monotonic() - began)
                if time.monotonic() >= self._next_look:
                    began = time.monotonic()
                    seen = await self.look()
                    took = time.monotonic() - began
                    pause = _PAUSE if seen.turned else took * (_SHARE if seen.more else _OF_TURN)
                    self._next_look = time.monotonic() + pause
                    if seen.noted:
                        continue
                    if seen.turned:
                        await self._database.write(self._forget)
            except (ChoreoError, DBAPIError) as error:
                log.warning(
                    "alerts wait", error=error.message if isinstance(error, ChoreoError) else type(error).__name__
                )
                await asyncio.sleep(1.0)
            except Exception:
                log.exception("alerting failed, it goes on")
                await asyncio.sleep(1.0)
            if await happens(self._wake, min(_PAUSE, max(0.0, self._next_look - time.monotonic()))):
                await asyncio.sleep(rest)  # where very many come in, they are not counted again for each few

    async def tell(self) -> int:
        """Tell some of what is noted; give for how many events that was."""
        hurry, self._hurry = self._hurry, False
        found = await self._database.read(
            lambda connection: _to_tell(connection, self._database.now(connection), hurry)
        )
        if not found:
            return 0
        around = await self._survey()
        told = []
        for each in found:
            singles = [_Told(one, *(await self._why(one, around))) for one in each.singles]
            example = each.example
            told.append(
                (each, singles, None if example is None else _Told(example, *(await self._why(example, around))))
            )
        rows = await self._database.write(lambda connection: self._publish(connection, told))
        self._relay.publish(rows)
        return len(rows)

    async def look(self) -> _Seen:
        """Look at the sagas that are due, or at the next of all, and note those that are stuck."""
        after = self._stuck_after
        if after is None:
            return _Seen(0, more=False, turned=True)
        now = await self._database.read(self._database.now)
        before = now - after
        page = await self._database.read(lambda c: quiet.page(c, self._turn, before, _LOOKED_AT))
        around = await self._survey() if page.cases else Surroundings()
        if around.trouble is not None:
            return _Seen(0, more=False, turned=True)  # nobody can say then who is to blame: once more later
        found = []
        for case in page.cases:
            definition, instance = case.found.definition, case.found.instance
            if definition.observe_only:
                continue
            explanation = explain(definition, instance, case.places, around, case.brakes, now, case.queued)
            if (one := stuck(instance, explanation, now, after)) is not None:
                found.append(one)
        due = page.cases[: page.due]

        def write(connection: Connection) -> int:
            quiet.mark(connection, due, before)
            return _note_new(connection, found)

        noted = await self._database.write(write) if found or due else 0
        self._turn = page.turn
        return _Seen(noted, page.more, page.turned)

    async def _survey(self) -> Surroundings:
        try:
            async with asyncio.timeout(_SURVEY):
                return await look_around(self._transport, self._group, self._topics)
        except TimeoutError:
            return Surroundings(f"it did not answer within {_SURVEY:.0f}s")
        except ChoreoError as error:
            return Surroundings(error.message)

    async def _why(self, one: Alert, around: Surroundings) -> tuple[str, Sequence[str], str | None]:
        """Give the words, the remedies, and the saga's whole name."""
        if one.saga is not None:
            try:
                told = await explain_saga(self._database, one.saga, partial(_seen, around))
            except ChoreoError:
                pass  # it is not there any more, or not yet
            else:
                remedies = tuple(dict.fromkeys((*told.explanation.remedies, *one.remedies)))
                return _words(told.explanation, told.at), remedies, told.id or one.saga
        text = "\n".join((one.summary, *(f"do    {remedy}" for remedy in one.remedies)))
        return text, one.remedies, one.saga

    def _publish(
        self, connection: Connection, told: Sequence[tuple[_Alike, Sequence[_Told], _Told | None]]
    ) -> list[Any]:
        now = self._database.now(connection)
        records = []
        for each, singles, example in told:
            for one in singles:
                mine = update(alert).where(alert.c.id == one.alert.id, alert.c.told_at.is_(None)).values(told_at=now)
                if connection.execute(mine).rowcount:  # else another coordinator has told it meanwhile
                    records.append(_record(one, self._codec))
            if example is None:
                continue
            rest = update(alert).where(alert.c.told_at.is_(None)).values(told_at=now)
            rest = rest.returning(alert.c.id, alert.c.saga, alert.c.at)
            # Else another coordinator has told them meanwhile, and what has come since may be no burst.
            if marked := list(connection.execute(rest.where(alert.c.id == example.alert.id)).all()):
                marked += connection.execute(rest.where(*_like(each.alike))).all()
                one_of_all, count, sagas = burst(example.alert, [Member(*row) for row in marked])
                why = f"{one_of_all.summary}\n{example.why}"
                remedies = tuple(dict.fromkeys((*one_of_all.remedies, *example.remedies)))
                records.append(_record(_Told(one_of_all, why, remedies, None), self._codec, count, sagas))
        return self._relay.put(connection, records)

    def _forget(self, connection: Connection) -> None:
        """Forget what was told long ago; of a saga that is still stuck it must be known that it was."""
        if self._keep is None:
            return
        old = alert.c.told_at < self._database.now(connection) - self._keep
        if connection.execute(select(alert.c.id).where(old).limit(1)).first() is None:
            return
        still = select(saga.c.id).where(saga.c.phase.in_([phase.value for phase in quiet.OPEN]))
        connection.execute(delete(alert).where(old, or_(alert.c.kind != "Stuck", alert.c.saga.not_in(still))))


class _Told(NamedTuple):
    """An alert with its words, its remedies, and the saga's whole name."""

    alert: Alert
    why: str
    remedies: Sequence[str]
    name: str | None


class _Alike(NamedTuple):
    """Alerts that are alike: those that are told one by one now, and one of the others, if they are told together."""

    alike: Alike
    singles: list[Alert]
    example: Alert | None


class _Seen(NamedTuple):
    """What a look has come to: alerts that were noted, whether more sagas are due, and whether all had their turn."""

    noted: int
    more: bool
    turned: bool


def _to_tell(connection: Connection, now: int, hurry: bool) -> list[_Alike]:
    """Say what of the untold is told now."""
    columns = [alert.c[name] for name in Alike._fields]
    counted = select(*columns, func.count(), func.min(alert.c.at)).where(alert.c.told_at.is_(None)).group_by(*columns)
    found = []
    for row in connection.execute(counted.order_by(func.min(alert.c.at))).all():
        waiting = Waiting(Alike(*row[:-2]), row[-2], row[-1])
        like = _like(waiting.alike)
        recent = select(alert.c.id).where(alert.c.told_at > now - LATELY, *like).limit(FEW)
        parted = part(waiting, len(connection.execute(recent).all()), now, hurry=hurry)
        wanted = parted.single + parted.together
        if wanted:
            chosen = select(alert).where(alert.c.told_at.is_(None), *like).order_by(alert.c.at, alert.c.id)
            alerts = [_alert(each) for each in connection.execute(chosen.limit(wanted))]
            example = alerts[-1] if parted.together and len(alerts) == wanted else None
            found.append(_Alike(waiting.alike, alerts[: parted.single], example))
    return found


def _like(alike: Alike) -> list[ColumnElement[bool]]:
    return [alert.c[name].is_not_distinct_from(value) for name, value in alike._asdict().items()]


def _alert(row: Any) -> Alert:
    remedies = tuple(json.loads(row.remedies))
    return Alert(row.id, row.kind, row.saga, row.type, row.key, row.step, row.reason, row.summary, row.at, remedies)


def _note_new(connection: Connection, found: Sequence[Alert]) -> int:
    if not found:
        return 0
    ids = [each.id for each in found]
    known = set(connection.execute(select(alert.c.id).where(alert.c.id.in_(ids))).scalars())
    return note(connection, [each for each in found if each.id not in known])


async def _seen(around: Surroundings, _: Iterable[str]) -> Surroundings:
    return around


def _words(explanation: Explanation, now: int) -> str:
    ago = [f"in {format_duration(each.at - now)}" if each.at > now else "now" for each in explanation.prospects]
    return in_words(explanation, ago)


def _record(told: _Told, codec: Codec, count: int = 1, sagas: Sequence[str] = ()) -> Record:
    one = told.alert
    event = AlertRaised(
        key=one.key,
        kind=one.kind,
        saga=told.name,
        type=one.type,
        step=one.step,
        at=to_datetime(one.at),
        reason=one.reason,
        summary=one.summary,
        why=told.why,
        remedies=list(told.remedies),
        count=count,
        sagas=list(sagas),
    )
    envelope = Envelope(
        id=one.id, type=AlertRaised.spec().type, source=f"choreo/{one.type or 'coordinator'}", time=one.at, key=one.key
    )
    return to_record(event, envelope, codec)
