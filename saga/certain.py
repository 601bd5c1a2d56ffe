"""Which events a saga has surely seen when a step has its turn, and at its end: what commands are filled from."""

from __future__ import annotations

from collections.abc import Iterable

from .definition import Definition, StepPlan

Told = tuple[str, ...]
"""Names of steps of which one has surely told its success."""


def told_before(definition: Definition, step: StepPlan) -> list[Told]:
    """Give what has surely been told when a step has its turn, and so whenever it is undone.

    A step that may be skipped, left out by an `any_of`, degraded or replaced has told nothing for sure; but of a step
    with its alternatives, or of a group, one has, where what follows runs.
    """
    return list(dict.fromkeys(_before(definition, step)))


def told_at_the_end(definition: Definition) -> list[Told]:
    """Give what has surely been told when a saga completes."""
    found: list[Told] = []
    for step in definition.steps:
        if step.final or step.instead_of is not None:
            continue
        if not definition.groups[step.name] and not may_be_skipped(definition, step):
            found += _success(definition, (step.name,))
        for group in step.any_of:
            if not _may_all_be_skipped(definition, group):
                found += _success(definition, group)
    return list(dict.fromkeys(found))


def may_be_skipped(definition: Definition, step: StepPlan) -> bool:
    """Whether a step may be SKIPPED in a saga that goes on, by its `when` or with all that comes before it."""
    if step.when or step.instead_of is not None:
        return True
    before = [may_be_skipped(definition, definition.by_name[name]) for name in step.after]
    before += [_may_all_be_skipped(definition, group) for group in step.any_of]
    return bool(before) and all(before)


def _before(definition: Definition, step: StepPlan) -> Iterable[Told]:
    if step.instead_of is not None:
        yield from _before(definition, definition.by_name[step.instead_of])
    alone = len(step.after) + len(step.any_of) == 1  # it does not run unless this one has
    for name in step.after:
        if alone or not may_be_skipped(definition, definition.by_name[name]):
            yield from _success(definition, (name,))
            yield from _before(definition, definition.by_name[name])
    for group in step.any_of:
        if alone or not _may_all_be_skipped(definition, group):
            yield from _success(definition, group)
            known = [set(_before(definition, definition.by_name[name])) for name in group]
            yield from sorted(set.intersection(*known))


def _may_all_be_skipped(definition: Definition, group: Iterable[str]) -> bool:
    return all(may_be_skipped(definition, definition.by_name[name]) for name in group)


def _success(definition: Definition, names: Iterable[str]) -> list[Told]:
    """Say who tells the success of one of these steps, alternatives included; nobody where it may be without a word."""
    steps = [step for name in names for step in definition.chains[name]]
    silent = any(
        step.optional or step.approval is not None or step.each is not None or step.only_undo for step in steps
    )
    return [] if silent else [tuple(step.name for step in steps)]
