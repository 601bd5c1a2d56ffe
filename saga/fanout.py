"""What is particular about steps that run once per element; each occurrence moves as any other step does.

The step itself is the group of its occurrences: it is WAITING while they run, DONE when all are, and it neither sends
nor undoes anything.
"""

from __future__ import annotations

from collections.abc import Iterable

from .definition import StepPlan
from .forward import Forward
from .inputs import Decided, HandlerGaveUp, Observed, input_id
from .instance import Step
from .occurrence import MOST_ELEMENTS, base_of, members, occurrence_id, occurrence_name, occurrences, unfold
from .words import Condition, StepState


class FanOut(Forward):
    """The moves of a step with its occurrences."""

    def decide_elements(self, plan: StepPlan, decided: Decided) -> None:
        """The elements are known: each occurrence has its turn, and those that came before it keep what they know."""
        instance, group = self.instance, self._step(plan)
        group.asked = None
        group.decided = input_id(decided, instance.seq)
        names = [occurrence_name(plan.name, element) for element in decided.value]
        early = {name: instance.steps.pop(name) for name in members(instance, plan.name)}
        strangers = early.keys() - set(names)
        if strangers:
            self._remark(
                Condition.UNEXPECTED, "UnknownElement", f"{len(strangers)} answers name no element of {plan.name}", plan
            )
        self._insert(plan.name, {name: early.get(name) or Step() for name in names})
        self.follows = (group.trigger or "", group.trace)
        for name in names:
            if instance.steps[name].state is StepState.PENDING:
                self._take_turn(self.definition.by_name[name], instance.steps[name])

    def _insert(self, group: str, occurrences: dict[str, Step]) -> None:
        """Put occurrences behind their group: the order of the steps is the order in which they are shown."""
        steps: dict[str, Step] = {}
        for name, step in self.instance.steps.items():
            steps[name] = step
            if name == group:
                steps.update(occurrences)
        self.instance.steps = steps
        self.definition = unfold(self.definition, self.instance)

    # ---- which occurrence an event is about --------------------------------------------------------------------

    def meant(self, plan: StepPlan, event: Observed, *, early: bool = False) -> StepPlan | None:
        """Give the occurrence that an event answers; a step that runs once is meant itself.

        Args:
            plan: the declared step.
            event: names the element, by its hash in the header or by its key in the payload.
            early: keep it under the name that it gives where the elements are not known yet.

        Returns:
            None where the event names no element of the step.
        """
        if plan.each is None:
            return plan
        named = event.occurrence
        if named is None and event.element is not None:
            named = occurrence_id(event.element)
        found = occurrences(self.definition).get((plan.name, named or ""))
        if found is None and early and event.element is not None and self._step(plan).decided is None:
            known = {name: self.instance.steps.pop(name) for name in members(self.instance, plan.name)}
            if len(known) < MOST_ELEMENTS:
                known[occurrence_name(plan.name, event.element)] = Step()
            self._insert(plan.name, known)
            found = self.definition.by_name.get(occurrence_name(plan.name, event.element))
        return found

    def expand(self, plans: Iterable[StepPlan], event: Observed, *, early: bool = False) -> tuple[StepPlan, ...]:
        """Give the plans that an event may be about: of a step per element the occurrence that it names."""
        return tuple(found for plan in plans if (found := self.meant(plan, event, early=early)) is not None)

    def no_element(self, event: Observed) -> None:
        """An answer that names no element changes nothing, and shows."""
        self._ignore("UnknownElement", f"{event.type} names no element that this saga has")

    # ---- a handler that gave up --------------------------------------------------------------------------------

    def concerned(self, plan: StepPlan, report: HandlerGaveUp) -> list[StepPlan]:
        """Give what a report about a step's handler concerns: a handler that is sent no command serves all elements."""
        base = base_of(plan.name)
        if base == plan.name:
            return [plan]
        if plan.send is not None:
            attempts = range(1, self._step(plan).attempt + 1)
            return [plan] if report.event_id in {self._command_id(plan, "do", n) for n in attempts} else []
        names = members(self.instance, base)
        return [self.definition.by_name[name] for name in names if self.instance.steps[name].open]
