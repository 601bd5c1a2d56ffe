"""How services and coordinators find each other: a service announces itself, and reads which sagas there are."""

from __future__ import annotations

from ..events.catalog import DEFINITIONS_TOPIC, DefinitionAnnouncement, read_definitions
from ..events.catalog import announce as publish
from ..events.envelope import TopicPartition
from ..events.errors import TopicMissing
from ..events.transport import Transport
from .service import Service


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

    async def changed(self) -> list[DefinitionAnnouncement] | None:
        """Give all definitions if any was announced since the last call, else None.

        Raises:
            TransportError: the broker does not answer.
        """
        try:
            ends = await self._transport.end_offsets([DEFINITIONS_TOPIC])
        except TopicMissing:
            return None  # no coordinator has ever been here
        if ends == self._read_to:
            return None
        found = await read_definitions(self._transport)
        self._read_to = ends
        return list(found.values())
