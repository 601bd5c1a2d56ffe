"""A bad run told three ways: as a story, as a Mermaid diagram, and as a failing test to paste."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..advance import advance as real_advance
from ..advance import begin as real_begin
from ..definition import Definition
from ..inputs import HandlerGaveUp, Observed
from ..saga import Saga
from .actions import Action
from .judge import Broken
from .nodes import Advance, Begin, Node
from .scope import Scope
from .search import BadRun
from .shape import declared
from .world import World


class Taken(NamedTuple):
    """One action of a run, taken again: what the coordinator was before and after it, and what is wrong."""

    action: Action
    before: Node | None
    after: Node | None
    broken: Broken | None


def walk(world: World, lines: Sequence[str]) -> Iterator[Taken]:
    """Take a run again, line by line; it ends early where a line cannot happen any more."""
    state = -1
    for place, line in enumerate(lines):
        choices = world.first() if place == 0 else world.next(state)
        found = next(((action, after, broken) for action, after, broken in choices if action.line == line), None)
        if found is None:
            return
        action, reached, broken = found
        before = world.node(state) if place else None
        after = world.node(reached) if reached >= 0 else None
        if broken is None and after is not None:
            number = world.nodes.nodes.index(after)
            broken = next((each for judged, each in world.nodes.broken if judged == number), None)
        if broken is None and reached >= 0 and place == len(lines) - 1 and world.quiet(reached):
            broken = next(world.settled(reached), None)
        yield Taken(action, before, after, broken)
        if broken is not None or reached < 0:
            return
        state = reached


def rerun(
    saga: type[Saga] | Definition,
    lines: Sequence[str],
    scope: Scope = Scope(),  # noqa: B008 - a value
    *,
    advance: Advance = real_advance,
    begin: Begin = real_begin,
) -> None:
    """Take a run of the model check again: the test that it prints does this.

    Args:
        saga: the saga.
        lines: what happens, as the check has written it.
        scope: what the check had.
        advance, begin: the code under test.

    Raises:
        AssertionError: the run still breaks an invariant. A run that cannot happen any more is no failure.
    """
    definition = saga if isinstance(saga, Definition) else saga.definition()
    for place, taken in enumerate(walk(World(definition, scope, advance, begin), lines), start=1):
        if taken.broken is not None:
            raise AssertionError(f"{taken.broken.invariant}, at line {place}: {taken.broken.sentence}")


def tell(
    definition: Definition,
    scope: Scope,
    bad: BadRun,
    advance: Advance = real_advance,
    begin: Begin = real_begin,
) -> list[str]:
    """Tell a run in numbered lines, each with what came of it."""
    lines = []
    for place, taken in enumerate(walk(World(definition, scope, advance, begin), bad.lines), start=1):
        said = "; ".join(_plain(each) for each in (*taken.action.before, taken.action.label))
        event = _event(taken.action)
        came = "".join(f"\n     {each}" for each in _changes(taken.before, taken.after))
        lines.append(f"{place:>3}. {said}{f' ({event})' if event and event not in said else ''}{came}")
    lines.append(f"     {bad.broken.invariant}: {bad.broken.sentence}")
    return lines


def mermaid(
    definition: Definition,
    scope: Scope,
    bad: BadRun,
    advance: Advance = real_advance,
    begin: Begin = real_begin,
) -> str:
    """Draw a run as a Mermaid sequence diagram."""
    taken = list(walk(World(definition, scope, advance, begin), bad.lines))
    steps = dict.fromkeys(
        name for each in taken for name in (*([each.action.step] if each.action.step else []), *_named(each.action))
    )
    lines = ["sequenceDiagram", "    participant coordinator"]
    lines += [f"    participant {_id(name)} as {name}" for name in steps]
    for each in taken:
        action = each.action
        for before in action.before:
            name, _, what = before.partition(": ")
            lines.append(f"    Note over {_id(_who(name))}: {_text(what if _who(name) == name else before)}")
        if action.kind == "read" and action.step is not None:
            lines.append(f"    {_id(action.step)}->>coordinator: {_event(action)}")
        else:
            lines.append(f"    Note over coordinator: {_text(action.label)}")
        lines += [
            f"    coordinator->>{_id(name)}: {type_}{again}"
            for name, type_, again in _sent(each.before, each.after, definition)
        ]
        phases = [None if node is None else node.instance.phase for node in (each.before, each.after)]
        if phases[1] is not None and phases[0] is not phases[1]:
            lines.append(f"    Note over coordinator: {phases[1]}")
    lines.append(f"    Note over coordinator: {_text(f'{bad.broken.invariant}: {bad.broken.sentence}')}")
    return "\n".join(lines)


def as_test(name: str, module: str, scope: Scope, bad: BadRun) -> str:
    """Write a run as a test to paste: it fails as long as the run can happen.

    Args:
        name, module: of the saga class.
        scope: what the check had.
        bad: the run.
    """
    title = re.sub(r"[^a-z0-9]+", "_", f"{bad.broken.invariant} {bad.broken.sentence}".lower()).strip("_")[:80]
    asked = ", ".join(
        f"{each}={getattr(scope, each)!r}"
        for each in ("duplicates", "crashes", "commands", "attempts", "undo_attempts")
    )
    lines = "\n".join(f"        {line!r}," for line in bad.lines)
    return f'''\
from choreo.saga.testing import Scope, rerun
from {module} import {name}


def test_{title}() -> None:
    """{bad.broken.invariant}: {bad.broken.sentence}."""
    lines = [
{lines}
    ]
    rerun({name}, lines, Scope({asked}))
'''


def _changes(before: Node | None, after: Node | None) -> Iterator[str]:
    if after is None:
        return
    old = {} if before is None else {name: step.state for name, step in before.instance.steps.items()}
    words = [
        f"{name} is {step.state}"
        for name, step in after.instance.steps.items()
        if old.get(name, "PENDING") != step.state
    ]
    phase = None if before is None else before.instance.phase
    if phase is not None and phase is not after.instance.phase:
        words.insert(0, f"the saga is {after.instance.phase}")
    if after.needs_person and (before is None or not before.needs_person):
        words.append("a person is asked")
    if words:
        yield "so " + ", ".join(words)
    sent = [f"{kind} {name}{again}" for name, kind, again in _sent(before, after, None)]
    if sent:
        yield "the coordinator sends: " + ", ".join(sent)


def _sent(before: Node | None, after: Node | None, definition: Definition | None) -> Iterator[tuple[str, str, str]]:
    """List what was sent in between: the step, the command's type (or do and undo), and " again"."""
    if after is None:
        return
    for name, now in after.ledger.steps.items():
        was = before.ledger.of(name) if before is not None else None
        plan = None if definition is None else definition.by_name[declared(name)]
        for kind, type_, attempt, times in (
            ("do", plan and plan.send, now.sent, now.sends),
            ("undo", plan and plan.undo, now.asked, now.asks),
        ):
            old = (0, 0) if was is None else (was.sent, was.sends) if kind == "do" else (was.asked, was.asks)
            if attempt > old[0] or (attempt == old[0] and times > old[1] > 0):
                yield name, type_ or kind, "" if attempt > old[0] else " again"


def _event(action: Action) -> str:
    if isinstance(action.input, Observed):
        return action.input.type
    return "HandlerFailed" if isinstance(action.input, HandlerGaveUp) else ""


def _plain(piece: str) -> str:
    name, colon, what = piece.partition(": ")
    return f"{name} {what}" if colon and not name.startswith("a person") else piece


def _who(name: str) -> str:
    """The step that a piece of a line is about: `undo 2 of charge` is about charge, `ship (2)` about ship."""
    return re.sub(r"^undo( \d+)? of ", "", re.sub(r" \(\d+\)$", "", name))


def _named(action: Action) -> list[str]:
    return [_who(piece.partition(": ")[0]) for piece in action.before]


def _id(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _text(text: str) -> str:
    return text.replace(";", ",").replace("#", "no. ")
