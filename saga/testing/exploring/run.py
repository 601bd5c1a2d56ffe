"""What a user's own rules see of a run: sagas, what was published, dead letters, rows of the services' own tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import RowMapping, Select, Table, select

from ....events.clock import to_datetime
from ....events.codec import Codec
from ....events.envelope import Delivery, read_envelope
from ....events.event import Event
from ... import queries
from ...instance import Instance
from ...tables import saga
from ..views import DeadLetter, Published, SagaView, read_dead_letter, saga_view
from ..world import coordinator_of, saga_of
from .faults import Fault
from .simulation import Simulation

E = TypeVar("E", bound=Event)


class Run:
    """One run, at one moment: what is committed and what is on the broker.

    Args:
        simulation: the run.
        codec: knows every class.
        classes: by type.
    """

    def __init__(self, simulation: Simulation, codec: Codec, classes: dict[str, type[Event]]) -> None:
        self._simulation = simulation
        self._codec = codec
        self._classes = classes
        self._published: list[Published] = []
        self._read = 0
        self._commands: dict[str, dict[str, str]] = {}

    @property
    def now(self) -> datetime:
        """The time in the run."""
        return to_datetime(self._simulation.clock())

    @property
    def calm(self) -> bool:
        """Whether nothing goes wrong any more."""
        return not self._simulation.troubles.active

    @property
    def events(self) -> Sequence[Event]:
        """What this run was begun with."""
        return self._simulation.events

    @property
    def faults(self) -> Sequence[Fault]:
        """What has gone wrong so far."""
        return list(self._simulation.troubles.hits)

    @property
    def instances(self) -> list[Instance]:
        """The state of every saga as it is stored, in the order in which they began."""
        query = select(saga.c.state).order_by(saga.c.started_at, saga.c.id)
        with self._simulation.saga_disk.reader.connect() as connection:
            return [Instance.from_json(state) for state in connection.execute(query).scalars()]

    def saga(self, name: str) -> SagaView:
        """Look at a saga.

        Raises:
            SagaNotFound: there is none.
        """
        with self._simulation.saga_disk.reader.connect() as connection:
            id_ = queries.resolve(connection, name)
            found = queries.load(connection, id_)
            entries = queries.read_history(connection, id_)
        self._read_log()
        return saga_view(found.instance, entries, list(self._commands.get(id_, {}).values()))

    @property
    def sagas(self) -> dict[str, SagaView]:
        """Every saga by its name, in the order in which they began."""
        query = select(saga.c.id).order_by(saga.c.started_at, saga.c.id)
        with self._simulation.saga_disk.reader.connect() as connection:
            ids = list(connection.execute(query).scalars())
        return {id_: self.saga(id_) for id_ in ids}

    @property
    def published(self) -> list[Published]:
        """Every event and command on the broker, in order, as often as it is there."""
        self._read_log()
        return list(self._published)

    def sent(self, event: type[E]) -> list[E]:
        """Give the events or commands of a class, in order, each once however often it is on the broker."""
        unlike = {each.id: each.event for each in self.published if isinstance(each.event, event)}
        return list(unlike.values())

    def dead_letters(self) -> list[DeadLetter]:
        """Give what handlers gave up on, and what nobody could read."""
        return [read_dead_letter(delivery) for delivery in self._log(0) if delivery.topic.endswith(".dlq")]

    def rows(self, service: str, table: Table | Select[Any]) -> Sequence[RowMapping]:
        """Read rows of a service's own store.

        Args:
            service: its name.
            table: one of its tables, or a query.
        """
        query = select(table) if isinstance(table, Table) else table
        with self._simulation.disks[service].reader.connect() as connection:
            return list(connection.execute(query).mappings())

    def _log(self, start: int) -> list[Delivery]:
        return [
            Delivery(
                each.record.topic,
                0,
                each.number,
                each.at // 1_000,
                each.record.key,
                each.record.value,
                each.record.headers,
            )
            for each in self._simulation.broker.log[start:]
        ]

    def _read_log(self) -> None:
        for delivery in self._log(self._read):
            self._read += 1
            envelope = read_envelope(delivery)
            cls = self._classes.get(envelope.type)
            if cls is None or delivery.topic != cls.spec().topic:
                continue
            event = self._codec.decode(cls, delivery.value or b"", envelope.content_type, id_=envelope.id)
            name = saga_of(envelope)
            at = to_datetime(delivery.timestamp * 1_000)
            self._published.append(Published(event, envelope.id, envelope.source, at, name))
            if name is not None and envelope.saga_attempt is not None and envelope.source == coordinator_of(envelope):
                self._commands.setdefault(name, {})[envelope.id] = envelope.type
