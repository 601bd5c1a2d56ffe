"""Deterministic simulation: real services and a real coordinator, run many times with something else going wrong."""

from __future__ import annotations

from .explore import explore
from .explorer import Explorer
from .faults import KINDS, Fault
from .outcome import Explored, Failure
from .run import Run
from .seed import Seed

__all__ = ["KINDS", "Explored", "Explorer", "Failure", "Fault", "Run", "Seed", "explore"]
