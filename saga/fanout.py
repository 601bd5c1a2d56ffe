"""What is particular about steps that run once per element; each occurrence moves as any other step does.

The step itself is the group of its occurrences: it is WAITING while they run, DONE when all are, and it neither sends
nor undoes anything.
"""

from __future__ import annotations

from collections.abc import Iterable

from .definition import StepPlan
from .inputs import Change, Decided, HandlerGaveUp, Observed, input_id
from .instance import Step
from .move import Move
from .occurrence import MOST_ELEMENTS, base_of, members, occurrence_id, occurrence_name, unfold
from .words import Condition, StepState

_GOOD = (StepState.DONE, StepState.DEGRADED)


class FanOut(Move):
    """The moves of a step with its occurrences."""

    def decide_elements(self, plan: StepPlan, decided: Decided) -> None:
        """The elements are known: each occurrence has its turn, and those that came before it keep what they know."""
        instance, group = self.instance, self._step(plan)
        group.decided = input_id(decided, instance.seq)
        names = [occurrence_name(plan.name, element) for element in decided.value]
        early = {name: instance.steps.pop(name) for name in members(instance, plan.name)}
        strangers = early.keys() - set(names)
        if strangers:
            self._remark(
                Condition.UNEXPECTED, "UnknownElement", f"{len(strangers)} answers name no element of {plan.name}", plan
            )
        self._insert(plan.name, {name: early.get(name) or Step() for name in names})
        for name in names:
            if self._may_start(instance.steps[name]):
                self._give_turn(self.definition.by_name[name], group.trigger, group.trace)
        self._join(plan)

    def join(self) -> None:
        """Settle every group whose occurrences are settled."""
        for plan in self.definition.steps:
            if plan.each is not None and self._step(plan).decided is not None:
                self._join(plan)

    def _join(self, plan: StepPlan) -> None:
        group = self._step(plan)
        if group.state not in (StepState.WAITING, StepState.DEGRADED):
            return
        states = [self.instance.steps[name].state for name in members(self.instance, plan.name)]
        if any(state not in _GOOD for state in states):
            return
        state = StepState.DEGRADED if StepState.DEGRADED in states else StepState.DONE
        if state is not group.state:
            group.conclude(state, self.now)
            self._enter(plan, state, "" if states else "no elements")

    def _give_up_group(self, plan: StepPlan) -> None:
        """The saga turns back: say of the group what the worst of its occurrences says."""
        states = {self.instance.steps[name].state for name in members(self.instance, plan.name)}
        state = StepState.FAILED if StepState.FAILED in states else StepState.UNKNOWN
        self._step(plan).conclude(state, self.now)
        self._enter(plan, state, "")

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

    def meant(self, plan: StepPlan, event: Observed) -> StepPlan | None:
        """Give the occurrence that an event answers; a step that runs once is meant itself.

        None where the event names no element of the step, which is remarked.
        """
        if plan.each is None:
            return plan
        named = event.occurrence
        if named is None and event.element is not None:
            named = occurrence_id(event.element)
        found = self.definition.by_name.get(self._occurrences(plan).get(named or "", ""))
        if found is None and event.element is not None and self._step(plan).decided is None:
            if len(members(self.instance, plan.name)) < MOST_ELEMENTS:
                # It came before the elements are known: it waits under the name that it gives.
                name = occurrence_name(plan.name, event.element)
                known = {each: self.instance.steps.pop(each) for each in members(self.instance, plan.name)}
                self._insert(plan.name, {**known, name: Step()})
                return self.definition.by_name[name]
        return found

    def _occurrences(self, plan: StepPlan) -> dict[str, str]:
        return unfolded_names(self.definition, plan.name)

    def expand(self, plans: Iterable[StepPlan], event: Observed) -> list[StepPlan]:
        """Give the plans that an event may be about, each step per element by its occurrence."""
        return [found for plan in plans if (found := self.meant(plan, event)) is not None]

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
