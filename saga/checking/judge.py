"""What must hold of each thing that a coordinator decides, stated from outside: the invariants of `docs/guarantees.md`.

A `Ledger` keeps what was read and sent so far, as an auditor would who sees only messages and the words for steps; the
checks compare each transition with it. Nothing of the code under test is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ..inputs import Announce, HandlerGaveUp, Input, Observed, Operator, Send, Transition
from ..instance import Instance
from ..words import Condition, Phase, StepState
from .shape import Shape, groups

_SETTLED = frozenset((StepState.DONE, StepState.DEGRADED, StepState.SKIPPED))
_NEVER_RAN = frozenset((StepState.PENDING, StepState.SKIPPED))
_NEXT = {
    Phase.RUNNING: {Phase.COMPLETED, Phase.COMPENSATING, Phase.COMPENSATED, Phase.FAILED, Phase.CANCELLED},
    Phase.COMPENSATING: {Phase.COMPENSATED, Phase.FAILED, Phase.CANCELLED},
    Phase.COMPLETED: set[Phase](),
    Phase.COMPENSATED: {Phase.COMPENSATING, Phase.FAILED},
    Phase.CANCELLED: {Phase.COMPENSATING, Phase.FAILED},
    Phase.FAILED: {Phase.COMPENSATING, Phase.COMPENSATED, Phase.CANCELLED},
}


class Broken(NamedTuple):
    """An invariant that does not hold: which one, and how it shows."""

    invariant: str
    sentence: str


class Steps(NamedTuple):
    """What was read and sent of one step.

    Args:
        done: its success was read.
        refuted: its latest attempt is known to have failed, by a failure that was said.
        sent, sends: the latest attempt of its command, and how often that went out.
        again: a known failure since then: a further attempt may be sent.
        asked, asks: the same of its undo.
        retold: a known failure of the undo, a person, or a success that came late: a further attempt may be sent.
        open: its undo was asked for, and is not answered.
        undone: it was answered, or a person has undone it.
        covers: a success of an earlier time than this was undone with it (the participant's clock).
    """

    done: bool = False
    refuted: bool = False
    sent: int = 0
    sends: int = 0
    again: bool = False
    asked: int = 0
    asks: int = 0
    retold: bool = False
    open: bool = False
    undone: bool = False
    covers: int = 0


@dataclass(frozen=True)
class Ledger:
    """What was read and sent of one saga.

    Args:
        steps: by name.
        announced: the event that it published at its end.
        cancelled: a person's cancel was applied.
    """

    steps: Mapping[str, Steps] = field(default_factory=dict)
    announced: str = ""
    cancelled: bool = False

    def of(self, name: str) -> Steps:
        """Give what was read and sent of a step."""
        return self.steps.get(name, _NOTHING)

    def with_(self, name: str, **values: object) -> Ledger:
        """Give the same with other values for one step."""
        return replace(self, steps={**self.steps, name: self.of(name)._replace(**values)})  # type: ignore[arg-type]

    def small(self) -> Ledger:
        """Leave out what no check asks for any more."""
        return replace(self, steps={name: _small(steps) for name, steps in self.steps.items() if steps != _NOTHING})

    @property
    def key(self) -> object:
        """Something to compare and hash it by."""
        return (tuple(sorted(self.steps.items())), self.announced, self.cancelled)


_NOTHING = Steps()


def _small(steps: Steps) -> Steps:
    if steps.done:
        steps = steps._replace(refuted=False, again=False, covers=0)
    if steps.asked:
        steps = steps._replace(refuted=False, again=False, sends=0)
    return steps if steps.open else steps._replace(asks=0)


class Judge:
    """Compares transitions with what was read and sent before.

    Args:
        shape: of the definition.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def read(self, ledger: Ledger, step: str | None, input_: Input, transition: Transition) -> Ledger:
        """Enter an input that was applied.

        Args:
            ledger: so far.
            step: the step that the input is about, as who has sent it knows.
            input_: what was read.
            transition: what came of it.
        """
        applied = transition.verdict == "applied"
        if isinstance(input_, Operator) and applied:
            if input_.kind == "cancel":
                return replace(ledger, cancelled=True)
            if input_.kind == "approve" and step:
                return ledger.with_(step, done=True)
            if input_.kind == "retry-undo" and step:
                return ledger.with_(step, retold=True)
            if input_.kind == "mark-undone" and step:
                return ledger.with_(step, open=False, undone=True, covers=1 << 60)
        if isinstance(input_, Observed) and input_.type in self.shape.definition.cancel and applied:
            return replace(ledger, cancelled=True)
        if step is None or not applied:
            return ledger
        plan, known = self.shape.plan(step), ledger.of(step)
        if isinstance(input_, Observed):
            if input_.type in plan.done and not known.done:
                undone = known.undone and input_.time < known.covers
                return ledger.with_(step, done=True, retold=known.retold or known.asked > 0, undone=undone)
            if input_.type in plan.failed:
                return ledger.with_(step, refuted=True, again=True)
            if input_.type in plan.undone and (known.open or known.asked):
                if input_.nothing_undone and known.done:
                    return ledger.with_(step, open=False, undone=False, retold=True)
                covered = 0 if input_.nothing_undone else input_.time
                return ledger.with_(step, open=False, undone=True, covers=covered)
        elif isinstance(input_, HandlerGaveUp) and input_.dead:
            return ledger.with_(step, **({"retold": True} if input_.event_type == plan.undo else {"again": True}))
        return ledger

    def send(self, ledger: Ledger, output: Send | Announce) -> Ledger:
        """Enter what was sent."""
        if isinstance(output, Announce):
            return replace(ledger, announced=output.type)
        known = ledger.of(output.step)
        if output.kind == "do":
            sends = known.sends + 1 if output.attempt == known.sent else 1
            return ledger.with_(output.step, sent=output.attempt, sends=sends, again=False, refuted=False)
        asks = known.asks + 1 if output.attempt == known.asked else 1
        return ledger.with_(output.step, asked=output.attempt, asks=asks, retold=False, open=True, undone=False)

    # ---- what must hold ------------------------------------------------------------------------------------------

    def transition(
        self, ledger: Ledger, before: Instance, step: str | None, input_: Input, transition: Transition
    ) -> Iterator[Broken]:
        """Judge one transition.

        Args:
            ledger: before it.
            before: the instance before it.
            step: the step that the input is about.
            input_, transition: what was read, and what came of it.
        """
        after = transition.instance
        if after.seq != before.seq + 1:
            yield Broken("S2", f"one input moved the version from {before.seq} to {after.seq}")
        if _pin(before) != _pin(after):
            yield Broken("S17", "an input changed what the instance is pinned to")
        if transition.verdict == "ignored":
            yield from self._ignored(before, transition)
        if before.phase.ended:
            yield from self._ended(before, step, input_, transition)
        if after.phase is not before.phase and after.phase not in _NEXT[before.phase]:
            yield Broken("S9", f"it went from {before.phase} to {after.phase}")
        reopened = before.phase.ended and transition.verdict == "applied" and after.phase is not before.phase
        if reopened and after.epoch != before.epoch + 1:
            yield Broken(
                "R11", f"it left {before.phase}, and its trace's epoch went from {before.epoch} to {after.epoch}"
            )
        if isinstance(input_, HandlerGaveUp) and not input_.dead and _words(before) != _words(after):
            yield Broken("R14", "an event that is parked, and tried again, changed a step")
        if isinstance(input_, Operator) and input_.kind == "cancel":
            yield from self._cancel(ledger, before, transition)
        if step is not None and isinstance(input_, (Observed, HandlerGaveUp)):
            yield from self._tried(ledger, before, after, step)
        known = self.read(ledger, step, input_, transition)
        for output in transition.outputs:
            if isinstance(output, Send):
                judged = self._do if output.kind == "do" else self._undo
                yield from judged(known, before, after, output)
                known = self.send(known, output)
            elif isinstance(output, Announce):
                yield from self._announce(known, after, output)
                known = self.send(known, output)
        yield from self._end(known, before, after)

    def _ignored(self, before: Instance, transition: Transition) -> Iterator[Broken]:
        if not transition.reason:
            yield Broken("S15", "an input was ignored without a reason")
        if transition.outputs:
            yield Broken("S15", f"an input was ignored ({transition.reason}), and yet something was sent")
        if _words(before) != _words(transition.instance):
            yield Broken("S15", f"an input was ignored ({transition.reason}), and yet a step or the saga changed")

    def _ended(self, before: Instance, step: str | None, input_: Input, transition: Transition) -> Iterator[Broken]:
        sent = [output for output in transition.outputs if isinstance(output, (Send, Announce))]
        if not sent:
            return
        plan = self.shape.plan(step) if step is not None else None
        late = plan is not None and (
            (isinstance(input_, Observed) and input_.type in plan.done)
            or (isinstance(input_, HandlerGaveUp) and input_.event_type != plan.undo)
        )
        healed = isinstance(input_, Observed) and plan is not None and input_.type in plan.undone
        if isinstance(input_, Operator) or (late and before.phase is not Phase.COMPLETED):
            return
        if healed and before.phase is Phase.FAILED:
            return
        if late and step is not None and step in self.shape.replaceable:
            return
        yield Broken("S8", f"it was {before.phase}, and yet it sent {', '.join(output.type for output in sent)}")

    def _cancel(self, ledger: Ledger, before: Instance, transition: Transition) -> Iterator[Broken]:
        applied = transition.verdict == "applied"
        pivot = self.shape.pivot
        if applied and pivot is not None and self._may_have_happened(ledger, before, pivot.name):
            yield Broken("R7", f"it was cancelled, and the pivot {pivot.name} may have happened")
        if applied and before.phase is not Phase.RUNNING:
            yield Broken("R7", f"it was cancelled when it was {before.phase}")

    def _do(self, ledger: Ledger, before: Instance, after: Instance, send: Send) -> Iterator[Broken]:
        plan, known = self.shape.plan(send.step), ledger.of(send.step)
        if send.type != plan.send:
            yield Broken("S6", f"step {send.step} sent {send.type}, its command is {plan.send}")
        if not send.again:
            if send.attempt != known.sent + 1:
                yield Broken("R3", f"attempt {send.attempt} of {send.step} was sent after attempt {known.sent}")
            if known.sent and not known.again:
                yield Broken("R3", f"{send.step} was sent under a new attempt, though its failure is not known")
        elif send.attempt != known.sent:
            yield Broken("R3", f"attempt {send.attempt} of {send.step} was sent again, and the last was {known.sent}")
        elif known.sends + 1 > plan.resend.attempts:
            yield Broken("S16", f"attempt {send.attempt} of {send.step} went out {known.sends + 1} times")
        if send.attempt > plan.retry.attempts:
            yield Broken(
                "S16", f"{send.step} was tried {send.attempt} times, at most {plan.retry.attempts} are allowed"
            )
        if known.done:
            yield Broken("S1", f"{send.step} is done, and its command was sent all the same")
        if after.phase not in (Phase.RUNNING, Phase.COMPLETED) and not plan.final:
            yield Broken("S9", f"{send.step} was sent when the saga was {after.phase}")
        if before.phase is not Phase.RUNNING and not plan.final:
            yield Broken("S9", f"{send.step} was sent when the saga was {before.phase}")
        for group in groups(plan):
            wider = {*group, *(other for name in group for other in self.shape.replacements(name))}
            if not any(after.steps[name].state in _SETTLED for name in wider):
                waiting = ", ".join(f"{name} is {after.steps[name].state}" for name in sorted(wider))
                yield Broken("forward-order", f"{send.step} was sent before its turn: {waiting}")

    def _undo(self, ledger: Ledger, before: Instance, after: Instance, send: Send) -> Iterator[Broken]:
        plan, known = self.shape.plan(send.step), ledger.of(send.step)
        if send.type != plan.undo:
            yield Broken("S6", f"the undo of {send.step} sent {send.type}, it is {plan.undo}")
        local = Phase.RUNNING in (after.phase, before.phase) and send.step in self.shape.replaceable
        if after.phase is Phase.RUNNING and not local:
            yield Broken("S9", f"{send.step} was undone while the saga went forward")
        if after.phase is Phase.COMPLETED and send.step not in self.shape.replaceable:
            yield Broken("S9", f"{send.step} was undone, and the saga is COMPLETED")
        pivot = self.shape.pivot
        turns_back = before.phase is Phase.RUNNING  # a pivot that is done later finds the saga being undone
        if pivot is not None and turns_back and not local and self._may_have_happened(ledger, before, pivot.name):
            yield Broken("R7", f"{send.step} was undone, and the pivot {pivot.name} may have happened")
        if send.again:
            if send.attempt != known.asked:
                yield Broken("R3", f"undo {send.attempt} of {send.step} was sent again, and the last was {known.asked}")
            elif known.asks + 1 > plan.undo_resend.attempts:
                yield Broken("S16", f"undo {send.attempt} of {send.step} went out {known.asks + 1} times")
            return
        if send.attempt != known.asked + 1:
            yield Broken("R3", f"undo {send.attempt} of {send.step} was sent after undo {known.asked}")
        if known.asked and not known.retold:
            yield Broken("S10", f"{send.step} was undone a second time without a reason")
        if known.asked:
            return
        ran = before.steps[send.step].state if send.step in before.steps else StepState.PENDING
        if not known.done and not known.again and ran in _NEVER_RAN and plan.done:
            yield Broken("S10", f"{send.step} was undone, and it has neither happened nor is it unknown ({ran})")
        if not known.done and known.refuted:
            yield Broken("S10", f"{send.step} was undone, and it is known to have failed")
        if after.phase is Phase.RUNNING or local:
            return
        for name in after.steps:
            other = ledger.of(name)
            if self.shape.plan(name).name not in self.shape.below[plan.name]:
                continue
            if other.open:
                yield Broken("S10", f"{send.step} was undone before the undo of {name} was answered")
            elif other.done and not other.undone and self.shape.plan(name).undo is not None:
                yield Broken("S10", f"{send.step} was undone before {name}, which depends on it")

    def _tried(self, ledger: Ledger, before: Instance, after: Instance, step: str) -> Iterator[Broken]:
        plan, known = self.shape.plan(step), ledger.of(step)
        if step not in before.steps or plan.send is None or before.phase is not Phase.RUNNING:
            return
        if before.steps[step].state is StepState.UNKNOWN:
            return  # its limit has passed, which bounds it as a whole
        gave_up = after.steps[step].state in (StepState.FAILED, StepState.DEGRADED)
        if gave_up and before.steps[step].state is not after.steps[step].state and known.sent < plan.retry.attempts:
            yield Broken("S16", f"{step} was given up after {known.sent} of {plan.retry.attempts} attempts")

    def _announce(self, ledger: Ledger, after: Instance, output: Announce) -> Iterator[Broken]:
        definition = self.shape.definition
        if ledger.announced:
            yield Broken("S1", f"it said {output.type} after it had said {ledger.announced}")
        right = {
            Phase.COMPLETED: definition.completed,
            Phase.COMPENSATED: definition.compensated,
            Phase.CANCELLED: definition.compensated,
        }
        if output.type != right.get(after.phase):
            yield Broken("S9", f"it said {output.type} when it was {after.phase}")

    def _end(self, ledger: Ledger, before: Instance, after: Instance) -> Iterator[Broken]:
        if after.phase is before.phase and before.phase.ended:
            return
        if after.phase is Phase.COMPLETED:
            for name, step in after.steps.items():
                replaced = name in self.shape.replaceable
                if step.state not in _SETTLED and not replaced:
                    yield Broken("S9", f"it is COMPLETED, and {name} is {step.state}")
                if ledger.of(name).open:
                    yield Broken("R11", f"it is COMPLETED, and the undo of {name} is not answered")
        elif after.phase in (Phase.COMPENSATED, Phase.CANCELLED):
            for name, step in after.steps.items():
                known, plan = ledger.of(name), self.shape.plan(name)
                if plan.each is not None and name == plan.name:
                    continue  # its occurrences stand for themselves
                if known.open:
                    yield Broken("R11", f"it is {after.phase}, and the undo of {name} is not answered")
                elif plan.undo is not None and known.done and not known.undone:
                    yield Broken("S10", f"it is {after.phase}, and {name} has happened and is not undone")
                elif plan.undo is not None and step.state is StepState.UNKNOWN:
                    yield Broken("S10", f"it is {after.phase}, and {name} is unknown and not undone")
            if (after.phase is Phase.CANCELLED) != ledger.cancelled:
                yield Broken("S9", f"it is {after.phase}, and it was {'' if ledger.cancelled else 'not '}cancelled")
        elif after.phase is Phase.FAILED and not waits_for_person(after) and not self.shape.definition.observe_only:
            yield Broken("V1", "it is FAILED, and nobody is told")

    def _may_have_happened(self, ledger: Ledger, before: Instance, name: str) -> bool:
        known = ledger.of(name)
        return known.done or (known.sent > 0 and not known.refuted)

    def quiet(self, instance: Instance) -> Iterator[Broken]:
        """Judge an instance when nothing is under way any more and no timer is armed (V1)."""
        if not instance.phase.ended and not waits_for_person(instance):
            yield Broken("V1", f"it is {instance.phase}, no timer is armed, and nobody is told")


def waits_for_person(instance: Instance) -> bool:
    """Tell whether a person is asked to do something."""
    return Condition.WAITING_FOR_PERSON in instance.conditions


def _pin(instance: Instance) -> tuple[object, ...]:
    return (
        *(instance.type, instance.key, instance.run, instance.version, instance.hash),
        *(instance.started_by, instance.started_at),
    )


def _words(instance: Instance) -> tuple[object, ...]:
    return (instance.phase, *(step.state for step in instance.steps.values()))
