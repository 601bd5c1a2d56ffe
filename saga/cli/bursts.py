"""Bursts of one error in a list: many sagas that failed the same way are one line with its count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...events.clock import SECOND

if TYPE_CHECKING:
    from ..queries import SagaRow

BURST = 4
"""So many sagas with one error are shown as one line."""

_WITHIN = 3_600 * SECOND


def folded_bursts(rows: Sequence[SagaRow]) -> dict[str, list[SagaRow]]:
    """Find bursts of one error: at least `BURST` sagas of a type in one phase at one step, an hour apart at most.

    Returns:
        By the name of the one that is listed first, all of them, it included.
    """
    alike: dict[tuple[str | None, ...], list[SagaRow]] = {}
    found: dict[str, list[SagaRow]] = {}
    for row in rows:
        if row.error is None:
            continue
        kind = (row.type, row.phase, row.step, row.error, *row.conditions)
        burst = alike.setdefault(kind, [])
        if burst and abs(burst[0].updated_at - row.updated_at) > _WITHIN:
            burst = alike[kind] = []
        burst.append(row)
        if len(burst) >= BURST:
            found[burst[0].id] = burst
    return found
