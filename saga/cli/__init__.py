"""The command line: `saga`, also `python -m choreo`."""

from __future__ import annotations

from .app import main

__all__ = ["main"]
