"""What a handler may ask for beside its event: the `Context` of this run, and its part in the `Transaction`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import structlog
from sqlalchemy import CursorResult, Executable, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from ..events.envelope import Envelope
from ..events.ids import derived_id
from ..events.trouble import gives_up
from .inbox import reference

T = TypeVar("T")


class Context:
    """The circumstances of one run of a handler.

    Args:
        service: the service's name.
        handler: the handler's name.
        envelope: what is known of the event beside its payload.
        attempt: which try this is in this process, from 1.
    """

    __slots__ = ("_log", "attempt", "envelope", "handler", "service")

    def __init__(self, service: str, handler: str, envelope: Envelope, attempt: int = 1) -> None:
        self.service = service
        self.handler = handler
        self.envelope = envelope
        self.attempt = attempt
        self._log: structlog.stdlib.BoundLogger | None = None

    @property
    def event_id(self) -> str:
        """The event's id; every copy of it has the same one."""
        return self.envelope.id

    @property
    def saga_id(self) -> str | None:
        """The saga's public name without the run, e.g. `fulfilment/4711`; None where the event names none."""
        return self.envelope.saga_id

    @property
    def step(self) -> str | None:
        """The saga's step that this command is for; None for an event that no saga sent."""
        return self.envelope.saga_step if self.envelope.saga_attempt is not None else None

    @property
    def idempotency_key(self) -> str:
        """A key for calls to the outside world: the same for each try, resend and retry of the same work (ruling R3).

        For a saga's command it is derived from saga, run, step and occurrence, whatever the attempt; for another event
        from its id. It is a UUID in text.
        """
        return derived_id("idempotency", self.service, self.handler, reference(self.envelope) or self.envelope.id)

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        """A logger that knows the service, the handler, the event and the saga."""
        if self._log is None:
            ids = {"saga_id": self.saga_id} if self.saga_id else {}
            logger = structlog.get_logger("choreo.handler")
            self._log = logger.bind(service=self.service, handler=self.handler, event_id=self.event_id, **ids)
        return self._log


class Transaction:
    """The database transaction that also holds the inbox row and the outgoing events: all commit, or nothing does.

    It is part of a batch: do no waiting for the outside world in it, and never commit or roll back by yourself.
    """

    __slots__ = ("_connection", "_whole", "gave_up")

    def __init__(self, connection: AsyncConnection, *, whole: bool = False) -> None:
        """Take part in a transaction.

        Args:
            connection: inside it.
            whole: a statement is never cut short by a time limit, which would take the connection with it.
        """
        self._connection: AsyncConnection | None = connection
        self._whole = whole
        self.gave_up: DBAPIError | None = None
        """With what the database gave up the whole transaction, where it did: that is no fault of the handler's."""

    @property
    def connection(self) -> AsyncConnection:
        """SQLAlchemy's connection, for what `execute` does not offer.

        Raises:
            RuntimeError: the handler has ended, and the transaction with it.
        """
        if self._connection is None:
            raise RuntimeError("this Transaction ended with its handler; use it only inside, and await all you start")
        return self._connection

    async def execute(
        self,
        statement: Executable | str,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> CursorResult[Any]:
        """Run one statement.

        Args:
            statement: SQLAlchemy Core, or SQL text with `:name` for each parameter.
            parameters: values by name, never part of the text; several sets run the statement for each.
        """
        chosen = text(statement) if isinstance(statement, str) else statement
        try:
            if self._whole:
                return await _to_its_end(self.connection.execute(chosen, parameters))
            return await self.connection.execute(chosen, parameters)
        except DBAPIError as error:
            if gives_up(error):
                self.gave_up = error
            raise

    def end(self) -> None:
        """Refuse further use; called by the worker."""
        self._connection = None


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Await something that goes on to its end though whoever awaits it is cancelled; the cancellation comes then."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise
