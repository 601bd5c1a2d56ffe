"""What surrounds runs: parts that log nothing, and garbage that is looked for between runs only."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog


@contextmanager
def quiet() -> Iterator[None]:
    """Let parts log nothing: what a run has to tell, its story tells."""
    before = structlog.get_config()
    structlog.configure(processors=[_drop])
    try:
        yield
    finally:
        structlog.configure(**before)


@contextmanager
def collecting_seldom() -> Iterator[Callable[[], object]]:
    """Look for garbage between runs only: within one it would be a tenth of the work."""
    if not gc.isenabled():
        yield gc.collect
        return
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.unfreeze()
        gc.enable()


def _drop(*_: object) -> Any:
    raise structlog.DropEvent
