"""Fold a saga's history again: the same inputs through the same definition give the same states and outputs (S3).

Pure, as `advance` is. Whoever reads histories (`recorded.py`), tries another definition on them (`difference.py`), or
keeps them as files (`tests/histories`) folds here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pydantic_core import to_json

from .advance import advance, begin
from .definition import Definition
from .inputs import Change, Input, Migrated, Observed, Transition


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
    """What a fold needs besides inputs: the saga's key, its run, and what was decided of its trace."""

    key: str
    run: int
    sampled: bool = True
    rotation: int | None = None


Folded = tuple[Applied, Transition]


def fold(definition: Definition, beginning: Beginning, inputs: Sequence[Applied]) -> Iterator[Folded]:
    """Apply a saga's inputs again, one after another, all under one definition.

    Args:
        definition: what they are applied under; that the saga was ever moved changes nothing here.
        beginning: whose inputs.
        inputs: all of them, the start event first.

    Returns:
        Each input with what comes of it now.
    """
    instance = None
    for each in inputs:
        if instance is None:
            assert isinstance(each.input, Observed)
            transition = begin(
                definition,
                beginning.key,
                beginning.run,
                each.input,
                each.at,
                sampled=beginning.sampled,
                rotation=beginning.rotation,
            )
        else:
            transition = advance(definition, instance, each.input, each.at)
        instance = transition.instance
        yield each, transition


def refold(
    definitions: Mapping[int, Definition], version: int, beginning: Beginning, inputs: Sequence[Applied]
) -> Iterator[Folded]:
    """Apply a saga's inputs again as they were applied: each under the version that was its own by then (S17).

    Args:
        definitions: of its type, by version.
        version: that it has now; where it was moved, the history says from which one.
        beginning: whose inputs.
        inputs: all of them.
    """
    moves = [place for place, each in enumerate(inputs) if isinstance(each.input, Migrated)]
    first = inputs[moves[0]].input if moves else None
    at = first.was if isinstance(first, Migrated) else version
    ends = [*moves, len(inputs)]
    begun = 0
    for number, end in enumerate(ends):
        for place, folded in enumerate(fold(definitions[at], beginning, inputs[:end])):
            if place >= begun and not (number and place == moves[number - 1]):
                yield folded
        if number < len(moves):
            move = inputs[end].input
            assert isinstance(move, Migrated)
            at = move.version
            yield inputs[end], moved(definitions[at], beginning, inputs[:end], move, inputs[end].at)
        begun = end


def moved(
    definition: Definition, beginning: Beginning, inputs: Sequence[Applied], move: Migrated, now: int
) -> Transition:
    """Move a saga to another version: its state is what its history makes of it under that one, timers included.

    Args:
        definition: of the new version.
        beginning, inputs: its whole history so far.
        move: the input that says so.
        now: microseconds.
    """
    [(_, state)] = deque(fold(definition, beginning, inputs), maxlen=1)
    instance = state.instance.copy()
    instance.seq += 1
    told = Change(None, instance.phase, f"moved from version {move.was} to version {move.version}")
    return Transition(instance, changes=[told])


def changes_text(changes: Sequence[Change]) -> str:
    """Write decisions as the history has them."""
    return to_json(changes).decode()
