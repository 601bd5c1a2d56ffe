"""Exit codes, the same for every command; `saga help exit-codes` shows them."""

from __future__ import annotations

from typing import Final

from ...events.errors import (
    AmbiguousSaga,
    ChoreoError,
    ConfigurationError,
    DefinitionError,
    PositionLost,
    Refused,
    RegistryUnreachable,
    SagaNotFound,
    SchemaNotFound,
    StoreUnreachable,
    TopicMissing,
    TransportError,
)

OK: Final = 0
ERROR: Final = 1
USAGE: Final = 2
COMPENSATED: Final = 3
FAILED: Final = 4
CANCELLED: Final = 5
TIMED_OUT: Final = 6
NOT_FOUND: Final = 7
NOT_ALLOWED: Final = 8
UNREACHABLE: Final = 9
INTERRUPTED: Final = 130

TABLE = """\
  0  the command worked; for `watch` and `wait`: the saga is COMPLETED
  1  an unexpected error; `publish`: malformed rows; `replay --verify`, `upgrade`: it differs; `check`: an error
  2  wrong usage, a wrong setting or declaration, an ambiguous id, a missing topic
  3  the saga is COMPENSATED
  4  the saga is FAILED, or waits for a person
  5  the saga is CANCELLED
  6  timed out while waiting: the saga is still open, or the command still queued
  7  not found
  8  not allowed: the saga's state does not permit it
  9  the broker, the store or the schema registry cannot be reached
130  interrupted"""

_BY_ERROR: tuple[tuple[type[ChoreoError], int], ...] = (
    (SagaNotFound, NOT_FOUND),
    (SchemaNotFound, NOT_FOUND),
    (AmbiguousSaga, USAGE),
    (Refused, NOT_ALLOWED),
    (TopicMissing, USAGE),
    (PositionLost, ERROR),
    (TransportError, UNREACHABLE),
    (RegistryUnreachable, UNREACHABLE),
    (StoreUnreachable, UNREACHABLE),
    (ConfigurationError, USAGE),
    (DefinitionError, USAGE),
)
_BY_PHASE = {"COMPLETED": OK, "COMPENSATED": COMPENSATED, "FAILED": FAILED, "CANCELLED": CANCELLED}


def code_of(error: ChoreoError) -> int:
    """Give the exit code of an error."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), ERROR)


def outcome(phase: str, *, waits_for_person: bool = False) -> int:
    """Give the exit code that tells how a saga stands: its end, or 4 where it waits for a person; open is 0."""
    return FAILED if waits_for_person else _BY_PHASE.get(phase, OK)
