"""What a coordinator could not apply and sets aside, and what is the store's trouble rather than an event's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError

from ..events.envelope import Delivery, Envelope, Record
from ..events.errors import ChoreoError, DecodeError, EventError
from ..services.dead_letters import Failure, dead_letter
from .inputs import Observed
from .routing import Arrival


class Refused(NamedTuple):
    """A record that could not be applied, with the reason."""

    arrival: Arrival
    reason: str


def unreadable(delivery: Delivery, error: EventError, envelope: Envelope | None = None) -> Refused:
    """Set a record aside that says nothing a saga could use."""
    if envelope is None:
        id_ = f"{delivery.topic}/{delivery.partition}/{delivery.offset}"
        envelope = Envelope(id_, "", delivery.topic, delivery.timestamp * 1_000, "")
    observed = Observed(envelope.id, envelope.type, envelope.source, envelope.time)
    return Refused(Arrival(delivery, envelope, observed, ()), error.message)


def set_aside(refused: Refused, now: int, secrets: Iterable[str] = ()) -> Record:
    """Make the dead letter of a record that the coordinator could not apply; `secrets` are where it may hold some."""
    error = DecodeError(refused.reason)
    failure = Failure(service="choreo.coordinator", handler="", error=error, attempts=0, dead=True, now=now, event=None)
    return dead_letter(refused.arrival.delivery, failure, secrets)


def blames_input(error: DBAPIError) -> bool:
    """Whether what was written is at fault; a full disk, a lock that was waited for too long and the like are not."""
    state = getattr(error.orig, "sqlstate", None)
    # PostgreSQL, appendix A: data exception, integrity constraint violation, program limit exceeded.
    return state is None or state[:2] in ("22", "23", "54")


def trouble(error: ChoreoError | DBAPIError) -> str:
    """Say what keeps a coordinator waiting."""
    if isinstance(error, ChoreoError):
        return error.message
    return f"the store refuses: {type(error.orig).__name__}"  # its text may quote what was to be written
