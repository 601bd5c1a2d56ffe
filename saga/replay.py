"""Fold a saga's history again: the same inputs through the same definition give the same states and outputs (S3).

Pure, as `advance` is. Whoever reads histories (`recorded.py`), tries a definition on them (`difference.py`) or keeps
them as files (`tests/histories`) folds here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pydantic_core import to_json

from .advance import advance, begin
from .definition import Definition
from .inputs import Change, Input, Observed, Transition


class Applied(NamedTuple):
    """One input of a history, with what came of it then.

    Args:
        seq: its place, from 1.
        at: when it was applied, the store's clock in microseconds.
        input: what went into `advance`.
        verdict, reason, changes: what came out, as the history has it.
    """

    seq: int
    at: int
    input: Input
    verdict: str = ""
    reason: str = ""
    changes: str = ""


class Beginning(NamedTuple):
    """What a fold needs besides inputs: the saga's key, its run, and whether its trace is recorded."""

    key: str
    run: int
    sampled: bool = True


def fold(
    definition: Definition, beginning: Beginning, inputs: Sequence[Applied]
) -> Iterator[tuple[Applied, Transition]]:
    """Apply a saga's inputs again, one after another.

    Args:
        definition: what they are applied under.
        beginning: whose inputs.
        inputs: all of them, the start event first.

    Returns:
        Each input with what comes of it now.
    """
    instance = None
    for each in inputs:
        if instance is None:
            assert isinstance(each.input, Observed)
            transition = begin(definition, beginning.key, beginning.run, each.input, each.at, sampled=beginning.sampled)
        else:
            transition = advance(definition, instance, each.input, each.at)
        instance = transition.instance
        yield each, transition


def changes_text(changes: Sequence[Change]) -> str:
    """Write decisions as the history has them."""
    return to_json(changes).decode()
