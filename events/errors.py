"""The one tree of errors that choreo raises.

ChoreoError
├── DefinitionError      a declaration (event, handler, saga) cannot work; raised where it is defined
├── ConfigurationError   a setting or an argument is wrong
├── EventError           one event cannot be sent or read
│   ├── MissingKey       the event has no usable key
│   ├── EncodeError      the event does not fit its schema
│   ├── DecodeError      the bytes are not what the schema says
│   ├── LimitExceeded    a record or header is larger than we accept
│   ├── SchemaRefused    the registry refuses the schema as incompatible
│   └── SchemaNotFound   the registry has no such subject or version
├── TransportError       the broker did not do what was asked (a retry makes sense)
│   ├── BrokerUnreachable
│   ├── TopicMissing     (no retry: create the topic)
│   ├── CommitRefused    this member no longer owns the partition
│   └── PositionLost     the saved position is not in the log any more (no retry: a person decides)
├── RegistryUnreachable  the schema registry does not answer (a retry makes sense)
├── StoreError
│   ├── StoreUnreachable (a retry makes sense)
│   └── StoreMismatch    the store was written by a newer release, or needs `saga store upgrade`
├── SagaError
│   ├── NotYet           the saga has not seen that event so far
│   ├── SagaNotFound
│   ├── AmbiguousSaga
│   └── Refused          an operation that the saga's state does not allow
└── Permanent            raised *by handlers*: retrying this input is pointless
"""

from __future__ import annotations

from typing import ClassVar


class ChoreoError(Exception):
    """Base of every error of choreo; `retryable` says whether the same call may succeed later.

    Args:
        message: what is wrong, where, and what to do, in one line.
        ids: the identifiers that it concerns (`event_id=`, `saga_id=`, `topic=` ...), kept in `.ids`.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **ids: object) -> None:
        super().__init__(message)
        self.message = message
        self.ids = {name: value for name, value in ids.items() if value is not None}


class DefinitionError(ChoreoError):
    """A declaration cannot work; raised when the class or handler is defined."""


class ConfigurationError(ChoreoError):
    """A setting or an argument is wrong."""


class EventError(ChoreoError):
    """One event cannot be sent or read."""


class MissingKey(EventError):
    """The event's key field is empty or absent, so it has no partition and no saga."""


class EncodeError(EventError):
    """The event does not fit its schema."""


class DecodeError(EventError):
    """The bytes are not what the schema says."""


class LimitExceeded(EventError):
    """A record, header or collection is larger than choreo accepts."""


class SchemaRefused(EventError):
    """The schema registry refuses the schema: it would break readers."""


class SchemaNotFound(EventError):
    """The registry has no such subject, version or id."""


class TransportError(ChoreoError):
    """The broker did not do what was asked."""

    retryable = True


class BrokerUnreachable(TransportError):
    """No broker answers at the address."""


class TopicMissing(TransportError):
    """A topic does not exist."""

    retryable = False


class CommitRefused(TransportError):
    """The group moved on: this member does not own the partition any more."""


class PositionLost(TransportError):
    """The saved position lies outside the log: records were deleted, or the topic was made anew."""

    retryable = False


class RegistryUnreachable(ChoreoError):
    """The schema registry does not answer."""

    retryable = True


class StoreError(ChoreoError):
    """The store did not do what was asked."""


class StoreUnreachable(StoreError):
    """The store cannot be opened or does not answer."""

    retryable = True


class StoreMismatch(StoreError):
    """The store's tables are of another release than the code."""


class SagaError(ChoreoError):
    """A saga cannot do what was asked."""


class NotYet(SagaError):
    """The saga has not seen that event so far."""


class SagaNotFound(SagaError):
    """No saga has that name."""


class AmbiguousSaga(SagaError):
    """Several sagas have that key: name the type too."""


class Refused(SagaError):
    """The saga's state does not allow the operation."""


class Permanent(ChoreoError):
    """Raise it in a handler when a retry is pointless: the event goes to the dead letters at once."""
