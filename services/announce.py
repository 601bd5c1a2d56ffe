"""How services and coordinators find each other: a service announces itself, and reads which sagas there are."""

from __future__ import annotations

from ..events.catalog import DEFINITIONS_TOPIC, DefinitionAnnouncement, read_definitions
from ..events.catalog import announce as publish
from ..events.envelope import TopicPartition
from ..events.errors import TopicMissing
from ..events.transport import Transport
from .service import Service

_SELDOM = 3
"""Calls that a look for definitions is left out at most, while no coordinator has ever been there."""


async def announce(service: Service, transport: Transport) -> None:
    """Tell `choreo.catalog` what a service consumes, publishes and undoes.

    The catalog proves no life: the members of the consumer group do (ruling R13).

    Raises:
        TransportError: the broker did not take it.
    """
    await publish(transport, service.announcement())


class Definitions:
    """The sagas that coordinators announced, read again only when there is something new.

    Args:
        transport: an open broker.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._read_to: dict[TopicPartition, int] | None = None
        self._rest = self._left_out = 0

    async def changed(self) -> list[DefinitionAnnouncement] | None:
        """Give all definitions if any was announced since the last call, else None.

        Where no coordinator has ever been, most calls ask nobody, soon only one in four does.

        Raises:
            TransportError: the broker does not answer.
        """
        if self._left_out < self._rest:
            self._left_out += 1
            return None
        try:
            ends = await self._transport.end_offsets([DEFINITIONS_TOPIC])
        except TopicMissing:  # no coordinator has ever been here, and to see that took a list of all topics there are
            self._rest, self._left_out = min(2 * self._rest + 1, _SELDOM), 0
            return None
        if ends == self._read_to:
            return None
        found = await read_definitions(self._transport)
        self._read_to = ends
        return list(found.values())
