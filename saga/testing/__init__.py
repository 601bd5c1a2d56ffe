"""The kit for tests of services and sagas: `Harness`, and stand-ins for the services that a test does not have."""

from __future__ import annotations

from .harness import Harness
from .loop import NeverSettles
from .standins import StandIn, answers, crashes, in_turn, silent
from .views import Cause, DeadLetter, Published, SagaView

__all__ = [
    "Cause",
    "DeadLetter",
    "Harness",
    "NeverSettles",
    "Published",
    "SagaView",
    "StandIn",
    "answers",
    "crashes",
    "in_turn",
    "silent",
]
