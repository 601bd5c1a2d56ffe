"""The kit for tests of services and sagas: `Harness`, `explore`, and stand-ins for services that a test lacks."""

from __future__ import annotations

from .exploring import Explored, Explorer, Failure, Run, Seed, explore
from .harness import Harness
from .loop import NeverSettles
from .standins import StandIn, answers, crashes, in_turn, silent
from .views import Cause, DeadLetter, Published, SagaView

__all__ = [
    "Cause",
    "DeadLetter",
    "Explored",
    "Explorer",
    "Failure",
    "Harness",
    "NeverSettles",
    "Published",
    "Run",
    "SagaView",
    "Seed",
    "StandIn",
    "answers",
    "crashes",
    "explore",
    "in_turn",
    "silent",
]
