"""Rules over one saga by itself: its definition, its events, and the functions that make its commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...events.clock import format_duration
from ...events.errors import ChoreoError, NotYet
from ...events.event import Event
from ..declaration import Declaration
from ..definition import StepPlan
from .findings import Finding
from .samples import sample
from .shape import Shape

_GIVES = frozenset(
    (
        *("refund", "payout", "paidout", "disburse", "disbursed", "disbursement", "credit", "credited"),
        *("transfer", "transferred", "remit", "remitted", "cashback"),
    )
)
_TAKES = frozenset(
    (
        *("charge", "charged", "capture", "captured", "debit", "debited", "collect", "collected"),
        *("withdraw", "withdrawn", "paid", "payment"),
    )
)


def of_saga(declaration: Declaration) -> Iterator[Finding]:
    """Judge one declaration."""
    definition = declaration.definition
    shape = Shape(definition)
    yield from _limits(declaration)
    yield from _pivot(declaration)
    yield from _lock(declaration)
    yield from _money(declaration, shape)
    yield from _functions(declaration, shape)


def _limits(declaration: Declaration) -> Iterator[Finding]:
    definition = declaration.definition
    if definition.deadline is None:
        return
    for plan in definition.steps:
        if (plan.done or plan.approval) and plan.within > definition.deadline and not _after_pivot(declaration, plan):
            yield Finding(
                "limit-after-deadline",
                "warning",
                f"its limit of {format_duration(plan.within)} never passes: the saga's deadline of "
                f"{format_duration(definition.deadline)} undoes everything before",
                "make within= shorter or deadline= longer",
                saga=definition.type,
                step=plan.name,
            )


def _after_pivot(declaration: Declaration, plan: StepPlan) -> bool:
    pivot = declaration.definition.pivot
    return pivot is not None and (plan.pivot or plan.name in Shape(declaration.definition).below[pivot.name])


def _pivot(declaration: Declaration) -> Iterator[Finding]:
    pivot = declaration.definition.pivot
    if pivot is not None and pivot.send is None and not declaration.definition.observe_only and pivot.done:
        yield Finding(
            "unasked-pivot",
            "warning",
            f"the pivot is choreographed: {' or '.join(pivot.done)} may happen by itself while the saga is being "
            "undone, because nobody stops who reacts to its trigger, and then there is no way back",
            "let the saga ask for it: send= a command",
            saga=declaration.definition.type,
            step=pivot.name,
        )


def _lock(declaration: Declaration) -> Iterator[Finding]:
    """A lock holds back what the saga commands, and nobody else."""
    definition = declaration.definition
    for plan in definition.steps:
        if definition.lock is not None and plan.send is None and plan.done and not (plan.before or plan.approval):
            yield Finding(
                "unheld-step",
                "warning",
                f"it follows the start by itself, so it does not wait for the lock on {definition.lock.field}",
                "let the saga ask for it: send= a command",
                saga=definition.type,
                step=plan.name,
            )


def _money(declaration: Declaration, shape: Shape) -> Iterator[Finding]:
    """Take before you give: a step that gives money should come after those that take it."""
    kinds = {plan.name: _moves(declaration, plan) for plan in declaration.definition.steps}
    takes = [name for name, kind in kinds.items() if kind == "taken"]
    for name, kind in kinds.items():
        before = [taken for taken in takes if name in shape.below[taken]]
        if kind == "given" and takes and not before:
            yield Finding(
                "money-order",
                "hint",
                f"it seems to give money before {' and '.join(takes)} took any: when that fails, it must come back",
                "put it after, or say on the event which it is: __money__ = 'given', 'taken' or ''",
                saga=declaration.definition.type,
                step=name,
            )


def _moves(declaration: Declaration, plan: StepPlan) -> str:
    """What a step does with money: as its event says in `__money__`, else by the words of its names."""
    for type_ in plan.done:
        said = getattr(declaration.events.get(type_), "__money__", None)
        if said is not None:
            return str(said)
    words = {word.lower() for name in (plan.name, *plan.done) for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    if words & _GIVES:
        return "given"
    return "taken" if words & _TAKES else ""


# ---- functions of the user ------------------------------------------------------------------------------------------


class _Facts:
    """The events of a saga in one of its states, made up."""

    def __init__(self, declaration: Declaration, events: Mapping[str, Event], done: frozenset[str]) -> None:
        self._declaration = declaration
        self._events = events
        self._done = done

    @property
    def key(self) -> str:
        return "sample"

    def start(self) -> Event:
        return self._events[self._declaration.definition.start[0]]

    def done(self, step: str) -> Event | None:
        plan = self._declaration.definition.by_name[step]
        return self._events[plan.done[0]] if step in self._done and plan.done else None

    def every(self, step: str) -> list[Event]:
        return [event] if (event := self.done(step)) is not None else []


def _functions(declaration: Declaration, shape: Shape) -> Iterator[Finding]:
    """Call what makes commands with made-up events, in the states in which they may be asked for."""
    definition = declaration.definition
    samples: dict[str, Event] = {}
    for type_, cls in declaration.events.items():
        made = sample(cls)
        if made is None:
            return  # an event with rules of its own: nothing can be said
        samples[type_] = made
    for plan in definition.steps:
        if plan.each is not None:
            continue
        sure = frozenset(name for name in _certain(shape, plan))
        if plan.undo is not None and (function := declaration.builds[plan.undo]) is not None:
            yield from _tried(declaration, samples, plan, "undo", plan.undo, function, sure, plan.name)
        if plan.send is not None and (function := declaration.builds[plan.send]) is not None:
            yield from _tried(declaration, samples, plan, "send", plan.send, function, sure, None)
        if plan.when:
            asked = declaration.asks[plan.name, "when"]
            yield from _tried(declaration, samples, plan, "when", "its answer", asked, sure, None)


def _certain(shape: Shape, plan: StepPlan) -> Iterator[str]:
    """Steps whose success is known for sure when a step has its turn."""
    for name in plan.after:
        before = shape.plans[name]
        if (
            not before.optional
            and not before.when
            and before.approval is None
            and before.instead_of is None
            and not shape.replacements(name)
        ):
            yield name
        yield from _certain(shape, before)


def _tried(
    declaration: Declaration,
    samples: Mapping[str, Event],
    plan: StepPlan,
    option: str,
    makes: str,
    function: Callable[..., Any],
    sure: frozenset[str],
    own: str | None,
) -> Iterator[Finding]:
    states = {"before anything else is known": sure}
    if own is not None:
        states = {f"when the outcome of {own} is unknown": sure, f"when {own} is done": sure | {own}}
    for state, done in states.items():
        try:
            function(declaration.view(_Facts(declaration, samples, done)))
        except NotYet as error:
            problem = error.message.partition(";")[0]
        except (ChoreoError, ArithmeticError, ValueError):
            continue  # the made-up values are to blame
        except Exception as error:
            problem = f"the function raises {type(error).__name__}"
        else:
            continue
        yield Finding(
            "unbuildable",
            "error",
            f"{option}= cannot make {makes} {state}: {problem}",
            f"use saga.maybe(...) in the function of {option}=, and say what it does without that event",
            saga=declaration.definition.type,
            step=plan.name,
            event=makes if makes in declaration.events else "",
        )
        return
