"""The whole semantics of a saga, as one pure function: values in, values out, no clock and no I/O.

`begin` makes an instance from its start event; `advance` applies one more input. Everything else in this room only
fetches what they need and carries out what they decide. The cases are those of `docs/semantics.md`.
"""

from __future__ import annotations

from typing import assert_never

from . import holding, pausing, promise
from .admitting import Admitting, ask_for_room
from .answers import Answers
from .children import UNDONE
from .definition import Definition
from .handler_reports import HandlerReports
from .inputs import (
    Admitted,
    Change,
    Decided,
    Elapsed,
    HandlerGaveUp,
    Input,
    Loaded,
    Locked,
    Migrated,
    Observed,
    Operator,
    Tell,
    Transition,
    Unbuildable,
    UndoAsked,
    Unloaded,
)
from .instance import Fact, Instance, new_instance
from .locking import ask_for_lock
from .people import People
from .strays import Strays
from .words import Phase, StepState


def begin(
    definition: Definition,
    key: str,
    run: int,
    event: Observed,
    now: int,
    *,
    sampled: bool = True,
    rotation: int | None = None,
) -> Transition:
    """Start an instance.

    Args:
        definition: what it runs under.
        key: its business key.
        run: 1, or higher for a key that ran before.
        event: the start event.
        now: the store's clock, microseconds.
        sampled: whether its trace is recorded.
        rotation: after how long its trace goes on in another one, microseconds; None: never.
    """
    instance = new_instance(definition, key, run)
    instance.seq = 1
    instance.started_at = instance.opened_at = now
    instance.started_by = Fact(event.type, event.id)
    instance.started_time = event.time
    instance.origin = event.traceparent
    instance.sampled, instance.rotation = sampled, rotation
    instance.deadline_at = None if definition.deadline is None else now + definition.deadline
    ask_for_lock(definition, instance, event, now)
    ask_for_room(definition, instance, event, now)
    instance.parent = event.parent
    move = _Advance(definition, instance, now)
    move.changes.append(Change(None, Phase.RUNNING, event.type))
    move.follows = (event.id, event.traceparent)
    move.settle()
    promise.ask(move)
    move.tell_parent(Phase.RUNNING)
    return move.transition()


def begin_undone(definition: Definition, key: str, run: int, asked: UndoAsked, now: int) -> Transition:
    """Note that a child was undone before it began: its late start finds it, and begins nothing (rows 15 and 21).

    Args:
        definition: what it would have run under.
        key, run: its name.
        asked: by whom it is undone.
        now: the store's clock, microseconds.
    """
    instance = new_instance(definition, key, run)
    instance.seq = 1
    instance.started_at = instance.opened_at = instance.ended_at = now
    instance.origin, instance.parent, instance.undo_asked = asked.traceparent, asked.parent, asked.id
    instance.phase, instance.cancelling, instance.told = Phase.CANCELLED, True, UNDONE
    for step in instance.steps.values():
        step.state, step.since = StepState.SKIPPED, now
    move = _Advance(definition, instance, now)
    move.changes.append(Change(None, Phase.CANCELLED, f"{asked.parent.id} undid it before it began"))
    move.outputs.append(Tell(UNDONE, asked.parent, asked.id, empty=True))
    return move.transition()


def advance(definition: Definition, instance: Instance, input_: Input, now: int) -> Transition:
    """Apply one input to an instance; the given instance stays as it is.

    Args:
        definition: the one that the instance is pinned to.
        instance: its state.
        input_: an observed event, a report of a handler, due timers, or a person's command.
        now: the store's clock, microseconds; never earlier than a timer that may fire.

    Returns:
        The new state with everything to publish. An ignored input says why.
    """
    copy = instance.copy()
    copy.seq += 1
    move = _Advance(definition, copy, now)
    match input_:
        case Observed():
            move.trace = input_.traceparent
            move.follows = (input_.id, input_.traceparent)
            if input_.type in definition.cancel:
                move.cancelled_by(input_)
            else:
                move.observe(input_)
            move.react(input_)
        case HandlerGaveUp():
            move.trace = input_.traceparent
            move.handler_gave_up(input_)
        case Elapsed():
            move.elapse(input_.until)
        case Operator():
            move.operate(input_)
        case Unbuildable():
            move.unbuildable(input_)
        case Decided():
            move.decided(input_)
        case Unloaded():
            pausing.hold(move, input_)
        case Locked():
            move.locked(input_)
        case Admitted():
            move.admitted()
        case Loaded():
            pausing.release(move, input_)
        case Migrated():
            move.ignored = "a saga is moved by folding its history, see `replay.moved`"
        case UndoAsked():
            move.trace = input_.traceparent
            move.undo_asked(input_)
        case _:
            assert_never(input_)
    move.settle()
    move.tell_parent(instance.phase)
    if copy.paused is not None:
        holding.keep(move, input_, instance)
    return move.transition()


class _Advance(Answers, HandlerReports, Admitting, Strays, People):
    """Every move; `advance` chooses among them."""

    def unbuildable(self, input_: Unbuildable) -> None:
        plan = self.definition.by_name[input_.step]
        step = self._step(plan)
        if input_.kind == "due":
            self._ignore("Unbuildable", input_.message)
        elif input_.kind == "undo":
            self._undo_failed(plan, step, "Unbuildable", input_.message)
        elif input_.kind == "do":
            self._fail(plan, step, "Unbuildable", input_.message, certain=step.certain, retry=False, event=None)
        elif step.asked == input_.kind:
            certain = step.done is None and step.certain  # it may have happened before its turn
            self._fail(plan, step, "Unbuildable", input_.message, certain=certain, retry=False, event=None)
            step.asked, step.early = None, False
        else:
            self._ignore("Unasked", f"{input_.kind}= of step {input_.step} was not asked", quiet=True)

    def decided(self, input_: Decided) -> None:
        plan = self.definition.by_name[input_.step]
        step = self._step(plan)
        if input_.kind == "due":
            promise.decided(self, input_)
        elif step.asked != input_.kind:
            self._ignore("Unasked", f"{input_.kind}= of step {input_.step} was not asked", quiet=True)
        elif input_.kind == "when":
            self._decide(plan, step, runs=bool(input_.value))
        else:
            self.decide_elements(plan, input_)
