"""The rules of a saga's graph, checked where it is defined: order, groups, alternatives, finally-steps, the pivot."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..events.errors import DefinitionError
from .definition import Definition, StepPlan
from .step import DeclaredStep, Unsaid

Declared = Mapping[str, DeclaredStep[Any]]


def check_graph(saga: str, definition: Definition, declared: Declared) -> None:
    """Refuse a graph that could not run, or not be undone.

    Args:
        saga: the class's name, for messages.
        definition: what the steps make.
        declared: the steps by name, for what a definition does not tell.

    Raises:
        DefinitionError: naming the step, the field and the remedy.
    """
    rules = _Rules(saga, definition, declared)
    rules.check_order()
    for step in definition.steps:
        rules.check_when(step)
        rules.check_only_undo(step)
        rules.check_groups(step)
        rules.check_alternative(step)
        rules.check_finally(step)
    rules.check_pivot()


class _Rules:
    """The rules of one saga."""

    def __init__(self, saga: str, definition: Definition, declared: Declared) -> None:
        self.saga = saga
        self.definition = definition
        self.declared = declared

    def check_order(self) -> None:
        for step in self.definition.steps:
            for replaced in self._replaced(step):
                if replaced in step.before:
                    raise self._wrong(
                        step.name, "after", f"names {replaced}, which it replaces", "leave it out: it comes after it"
                    )
        around = [name for name, before in self.definition.ancestors.items() if name in before]
        if around:
            raise self._wrong(
                around[0], "after", "leads back to itself", f"leave one of these out: {', '.join(around)}"
            )

    def _replaced(self, step: StepPlan) -> list[str]:
        found: list[str] = []
        while step.instead_of is not None and step.instead_of not in found:
            found.append(step.instead_of)
            step = self.definition.by_name[step.instead_of]
        return found

    def check_when(self, step: StepPlan) -> None:
        function = self.declared[step.name].options.when
        if function is not None and not _takes(function, 1):
            raise self._wrong(
                step.name,
                "when",
                "is not a function of the saga alone",
                "write when=lambda saga: saga.started.total > 100",
            )

    def check_only_undo(self, step: StepPlan) -> None:
        if not step.only_undo:
            return
        options = self.declared[step.name].options
        if step.undo is None:
            raise self._wrong(
                step.name,
                "done",
                "is empty",
                "name the event class that tells its success, or give undo= and undone=: a step that has only an undo",
            )
        for option in ("failed", "send", "within", "retry", "pivot", "optional", "each"):
            if getattr(options, option):
                raise self._wrong(
                    step.name,
                    option,
                    "has no meaning without done=: a step that has only an undo is done the moment its turn comes",
                    f"name the event class that tells its success, or leave {option}= out",
                )

    def check_groups(self, step: StepPlan) -> None:
        for group in step.any_of:
            if len(set(group)) < 2 or len(set(group)) < len(group):
                raise self._wrong(
                    step.name,
                    "after",
                    f"has any_of({', '.join(group)})",
                    "name two or more steps, each once; one step alone needs no any_of",
                )
            for name in group:
                related = self.definition.ancestors[name] & set(group)
                if related:
                    raise self._wrong(
                        step.name,
                        "after",
                        f"has {name} and {min(related)} in any_of(...), and one comes before the other",
                        "name steps that run side by side",
                    )
            for name in group:
                self._check_member(step, name)

    def _check_member(self, step: StepPlan, name: str) -> None:
        member = self.definition.by_name[name]
        chain = self.definition.chains[name]
        if member.instead_of is not None:
            raise self._wrong(
                step.name,
                "after",
                f"has {name} in any_of(...), which only stands in for {member.instead_of}",
                f"name {member.instead_of}: its alternatives count as well",
            )
        if member.pivot:
            raise self._wrong(
                step.name,
                "after",
                f"has the pivot {name} in any_of(...), so that it could be given up",
                "put the pivot after the any_of(...)",
            )
        for other in chain:
            if other.optional:
                raise self._wrong(
                    other.name,
                    "optional",
                    f"makes its failure count in any_of(...) of {step.name} like a success",
                    "leave it out: the saga bears the failure while another of them may succeed",
                )
        for other in self.definition.steps:
            if name in other.after:
                raise self._wrong(
                    other.name,
                    "after",
                    f"waits for {name}, which any_of(...) of {step.name} may give up",
                    f"write after={step.name}, and when=lambda saga: saga.maybe({self.saga}.{name}) where it matters",
                )

    def check_alternative(self, step: StepPlan) -> None:
        if step.instead_of is None:
            return
        replaced = self.definition.by_name[step.instead_of]
        others = [other.name for other in self.definition.steps if other.instead_of == replaced.name]
        if others[0] != step.name:
            raise self._wrong(
                step.name,
                "instead_of",
                f"names {replaced.name}, which {others[0]} replaces already",
                f"let them follow one another: instead_of={others[0]}",
            )
        if step.pivot or replaced.pivot:
            raise self._wrong(
                step.name,
                "instead_of",
                "goes with no pivot: it may have happened, and then there is no other way",
                "let a service find the other way before it answers",
            )
        if replaced.optional:
            raise self._wrong(
                replaced.name,
                "optional",
                f"lets the saga go on without it, so that {step.name} would never have its turn",
                f"say it of {step.name}, the last one, or leave it out",
            )
        if replaced.only_undo:
            raise self._wrong(
                step.name, "instead_of", f"names {replaced.name}, which cannot fail", "leave instead_of= out"
            )
        if step.final or replaced.final:
            raise self._wrong(
                step.name,
                "instead_of",
                "goes with no finally-step: its failure changes nothing",
                "leave one of them out",
            )

    def check_finally(self, step: StepPlan) -> None:
        ordinary = [name for name in step.before if not self.definition.by_name[name].final]
        if not step.final:
            last = [name for name in step.before if self.definition.by_name[name].final]
            if last:
                raise self._wrong(
                    step.name,
                    "after",
                    f"names the finally-step {last[0]}, which runs when everything else is over",
                    "say final=True of it as well, or name another step",
                )
            return
        if ordinary or step.any_of:
            raise self._wrong(
                step.name,
                "after",
                "of a finally-step is for other finally-steps: it runs at every end, whatever has happened",
                "leave it out; its when= can look at what has happened",
            )
        for option, remedy in _NOT_FINALLY.items():
            if getattr(step, option):
                raise self._wrong(step.name, option, "goes with no finally-step", remedy)
        if step.each is None and all(other.final for other in self.definition.steps):
            raise self._wrong(
                step.name, "final", "is said of every step, and there is nothing to end", "declare an ordinary step"
            )

    def check_pivot(self) -> None:
        definition, pivot = self.definition, self.definition.pivot
        pivots = [step for step in definition.steps if step.pivot]
        if len(pivots) > 1:
            raise self._wrong(
                pivots[1].name, "pivot", f"is said of {pivots[0].name} too", "a saga has one point of no return"
            )
        if pivot is not None and pivot.optional:
            raise self._wrong(pivot.name, "pivot", "cannot be optional", "leave one of the two out")
        for step in definition.steps:
            if not step.final:
                self._check_side(step, pivot)

    def _check_side(self, step: StepPlan, pivot: StepPlan | None) -> None:
        """Every step lies before or after the pivot (ruling R7), and has an undo where it may be needed."""
        before = pivot is None or step.name in self.definition.ancestors[pivot.name]
        after = pivot is not None and step.name in self.definition.descendants[pivot.name]
        if not before and not after and not step.pivot:
            assert pivot is not None
            raise self._wrong(
                step.name,
                "after",
                f"leaves open whether it comes before or after the pivot {pivot.name}",
                f"put it before or after {pivot.name}",
            )
        if before and isinstance(self.declared[step.name].options.undo, Unsaid) and not self.definition.observe_only:
            raise self._wrong(
                step.name,
                "undo",
                "is missing",
                "name the command that undoes it, or say undo=None: nothing to undo",
            )
        if step.undo is not None and (step.pivot or (after and not self._may_be_given_up(step))):
            raise self._wrong(
                step.name, "undo", "is never used: from the pivot on the saga only goes forward", "leave it out"
            )

    def _may_be_given_up(self, step: StepPlan) -> bool:
        """Whether a running saga may go on without it, and then undoes it alone."""
        chain = self.definition.chains[step.name]
        return step.when or step.instead_of is not None or len(chain) > 1 or bool(self.definition.groups[step.name])

    def _wrong(self, step: str, option: str, problem: str, remedy: str) -> DefinitionError:
        return DefinitionError(f"{self.saga}, step {step}: {option}= {problem}; {remedy}", step=step)


_NOT_FINALLY = {
    "undo": "leave it out: nothing comes after it that could undo it",
    "pivot": "make an ordinary step the pivot",
    "optional": "leave it out: its failure never fails the saga",
    "approval": "make it an ordinary step: a saga must not wait for a person to end",
    "child": "make it an ordinary step: a saga must not begin another one to end",
}


def _takes(function: Callable[..., Any], arguments: int) -> bool:
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # a builtin that does not tell
        return True
    return True
