"""The kit for tests of services and sagas: `Harness`, `explore`, and stand-ins for services that a test lacks."""

from __future__ import annotations

from ..checking.check import check
from ..checking.findings import Finding, Findings
from ..checking.scope import Scope
from ..checking.search import model_check
from ..checking.story import rerun
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
    "Finding",
    "Findings",
    "Harness",
    "NeverSettles",
    "Published",
    "Run",
    "SagaView",
    "Scope",
    "Seed",
    "StandIn",
    "answers",
    "check",
    "crashes",
    "explore",
    "in_turn",
    "model_check",
    "rerun",
    "silent",
]
