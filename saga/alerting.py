"""Alerts on their way: noted in the transaction that led to them, told once each, with what `saga why` says.

A row of `choreo_alert` is an occurrence. It is written by whoever sees it first, and told by whoever marks it as told:
the mark and the event stand in one transaction, the event in its outbox. So nothing is told twice, and what was noted
before a crash is told after it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, and_, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from ..events.clock import format_duration, to_datetime
from ..events.codec import Codec, to_record
from ..events.database import Database
from ..events.envelope import Envelope, Record, TopicPartition
from ..events.errors import ChoreoError
from ..events.outbox import Relay
from ..events.transport import Transport
from ..events.waiting import happens
from . import queries
from .alerts import Alert, AlertRaised, in_words, of_moves, of_refused, stuck
from .batch import Batch
from .explaining import explain_saga
from .surroundings import Surroundings, look_around
from .tables import alert, saga
from .why import Explanation, Place, explain
from .words import Phase
from .work import Moved

log = structlog.get_logger("choreo.coordinator")

_OPEN = (Phase.RUNNING.value, Phase.COMPENSATING.value)
_AT_ONCE = 50
_LOOKED_AT = 100
_PAUSE = 10.0
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
        self._noted = False
        self._wake = asyncio.Event()
        self._after: tuple[int, str] = (0, "")
        self._task: asyncio.Task[None] | None = None

    def begin(self, topics: Sequence[str]) -> None:
        """Tell from now on, what is left over first.

        Args:
            topics: that sagas consume, for a look around.
        """
        self._topics = topics
        if self._on:
            self._task = asyncio.create_task(self._run(), name="choreo-alerts")

    def note(self, batch: Batch, moves: Iterable[Moved]) -> None:
        """Write down what a transaction led to that somebody should hear of, within it."""
        if not self._on:
            return
        found = [*batch.alerts, *of_refused(batch.refused, batch.now), *of_moves(moves, batch.now)]
        if found:
            note(batch.connection, found)
            self._noted = True

    def committed(self) -> None:
        """Tell what was noted, now that it is committed."""
        if self._noted:
            self._noted = False
            self._wake.set()

    async def owes(self) -> bool:
        """Whether an alert waits to be told by this coordinator, or by another one."""
        return self._on and await self._database.read(any_untold)

    async def close(self) -> None:
        """Stop; what is not told yet is told by the next one."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                while await self.tell():
                    pass
                if await self.look():
                    continue
                await self._database.write(self._forget)
            except (ChoreoError, DBAPIError) as error:
                log.warning(
                    "alerts wait", error=error.message if isinstance(error, ChoreoError) else type(error).__name__
                )
                await asyncio.sleep(1.0)
            except Exception:
                log.exception("alerting failed, it goes on")
                await asyncio.sleep(1.0)
            await happens(self._wake, _PAUSE)

    async def tell(self) -> int:
        """Tell some of what is noted; give how many there were."""
        found = await self._database.read(_untold)
        if not found:
            return 0
        around = await self._survey()
        told = [(each, *(await self._why(each, around))) for each in found]
        rows = await self._database.write(lambda connection: self._publish(connection, told))
        self._relay.publish(rows)
        return len(found)

    async def look(self) -> int:
        """Look at some of the open sagas, and note those that are stuck; give how many there are."""
        after = self._stuck_after
        if after is None:
            return 0
        now = await self._database.read(self._database.now)
        cases = await self._database.read(lambda connection: _old(connection, now - after, self._after))
        self._after = (cases[-1].begun, cases[-1].found.instance.id) if len(cases) == _LOOKED_AT else (0, "")
        if not cases:
            return 0
        around = await self._survey()
        if around.trouble is not None:
            return 0  # nobody can say then who is to blame
        found = []
        for case in cases:
            definition, instance = case.found.definition, case.found.instance
            if definition.observe_only:
                continue
            explanation = explain(definition, instance, case.places, around, case.brakes, now, case.queued)
            if (one := stuck(instance, explanation, now, after)) is not None:
                found.append(one)
        return await self._database.write(lambda connection: _note_new(connection, found)) if found else 0

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
        self, connection: Connection, told: Sequence[tuple[Alert, str, Sequence[str], str | None]]
    ) -> list[Any]:
        now = self._database.now(connection)
        records = []
        for one, why, remedies, name in told:
            mine = update(alert).where(alert.c.id == one.id, alert.c.told_at.is_(None)).values(told_at=now)
            if connection.execute(mine).rowcount:  # else another coordinator has told it meanwhile
                records.append(_record(one, why, remedies, name, self._codec))
        return self._relay.put(connection, records)

    def _forget(self, connection: Connection) -> None:
        """Forget what was told long ago; of a saga that is still stuck it must be known that it was."""
        if self._keep is None:
            return
        old = alert.c.told_at < self._database.now(connection) - self._keep
        if connection.execute(select(alert.c.id).where(old).limit(1)).first() is None:
            return
        still = select(saga.c.id).where(saga.c.phase.in_(_OPEN))
        connection.execute(delete(alert).where(old, or_(alert.c.kind != "Stuck", alert.c.saga.not_in(still))))


def _untold(connection: Connection) -> list[Alert]:
    chosen = select(alert).where(alert.c.told_at.is_(None)).order_by(alert.c.at, alert.c.id).limit(_AT_ONCE)
    return [
        Alert(
            row.id,
            row.kind,
            row.saga,
            row.type,
            row.key,
            row.step,
            row.reason,
            row.summary,
            row.at,
            tuple(json.loads(row.remedies)),
        )
        for row in connection.execute(chosen)
    ]


def _note_new(connection: Connection, found: Sequence[Alert]) -> int:
    ids = [each.id for each in found]
    known = set(connection.execute(select(alert.c.id).where(alert.c.id.in_(ids))).scalars())
    return note(connection, [each for each in found if each.id not in known])


class _Case(NamedTuple):
    """An open saga that has been there for a while, with what explains it."""

    begun: int
    found: queries.Found
    places: dict[str, Place]
    brakes: queries.Brakes
    queued: Sequence[str]


def _old(connection: Connection, before: int, after: tuple[int, str]) -> list[_Case]:
    """Give the open sagas that began before a time, page by page, the oldest first."""
    begun, id_ = after
    behind = or_(saga.c.started_at > begun, and_(saga.c.started_at == begun, saga.c.id > id_))
    old = select(saga.c.id, saga.c.started_at).where(saga.c.phase.in_(_OPEN), saga.c.started_at <= before, behind)
    rows = connection.execute(old.order_by(saga.c.started_at, saga.c.id).limit(_LOOKED_AT)).all()
    brakes = queries.brakes(connection) if rows else None
    cases = []
    for row in rows:
        stood = queries.read_places(connection, row.id)
        places = {event: Place(TopicPartition(topic, part), offset) for event, (topic, part, offset) in stood.items()}
        queued = queries.queued_commands(connection, row.id)
        assert brakes is not None
        cases.append(_Case(row.started_at, queries.load(connection, row.id), places, brakes, queued))
    return cases


async def _seen(around: Surroundings, _: Iterable[str]) -> Surroundings:
    return around


def _words(explanation: Explanation, now: int) -> str:
    ago = [f"in {format_duration(each.at - now)}" if each.at > now else "now" for each in explanation.prospects]
    return in_words(explanation, ago)


def _record(one: Alert, why: str, remedies: Sequence[str], name: str | None, codec: Codec) -> Record:
    event = AlertRaised(
        key=one.key,
        kind=one.kind,
        saga=name,
        type=one.type,
        step=one.step,
        at=to_datetime(one.at),
        reason=one.reason,
        summary=one.summary,
        why=why,
        remedies=list(remedies),
    )
    envelope = Envelope(
        id=one.id, type=AlertRaised.spec().type, source=f"choreo/{one.type or 'coordinator'}", time=one.at, key=one.key
    )
    return to_record(event, envelope, codec)
