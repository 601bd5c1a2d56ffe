"""Deterministic simulation: real services and a real coordinator, run many times with something else going wrong."""

from __future__ import annotations

from .explore import Explored, Explorer, Failure, explore
from .faults import KINDS, Fault
from .run import Run
from .seed import Seed

__all__ = ["KINDS", "Explored", "Explorer", "Failure", "Fault", "Run", "Seed", "explore"]
