"""How many sagas of a type are open at a time, in the pure core: who begins above that waits, and is let in later.

Whether there is room is said by the start event (`Observed.queue`), since only the store can tell. A saga that waits
opens no step and has no limits; what is choreographed follows the start event all the same. Values in, values out.
"""

from __future__ import annotations

from .definition import Definition, StepPlan
from .elapsing import Elapsing
from .inputs import Change, Observed
from .instance import Admission, Instance, Remark
from .words import Condition


def ask_for_room(definition: Definition, instance: Instance, event: Observed, now: int) -> None:
    """Let a saga that has just begun wait, where its start event says that there is no room for it."""
    if event.queue is None:
        return
    if not event.queue:
        instance.admission = Admission(now, 0, now)
        return
    instance.admission = Admission(now, event.queue)
    instance.deadline_at = None  # its time begins when it is let in
    number = "1 saga" if definition.max_open == 1 else f"{definition.max_open} sagas"
    most = f"at most {number} of {definition.type} may be open at a time"
    ahead = f", {event.queue - 1} waited before it" if event.queue > 1 else ""
    instance.conditions[Condition.WAITING_TO_START] = Remark("MaxOpen", f"{most}{ahead}", now)


class Admitting(Elapsing):
    """Decides what becomes of a saga that waits until there is room for it."""

    def admitted(self) -> None:
        """There is room: its time begins, and its first steps have their turn."""
        if not self.instance.waits_to_start:
            self._ignore("NotWaiting", "it does not wait to start", quiet=True)
            return
        self._let_in()
        self.changes.append(Change(None, self.instance.phase, "there is room for it now"))
        self._set_off()

    def _compensate(self, plan: StepPlan | None, error: str, message: str, event: str | None) -> None:
        if self.instance.waits_to_start:
            self._let_in()  # to be undone takes no room that it could wait for
        super()._compensate(plan, error, message, event)

    def _let_in(self) -> None:
        admission = self.instance.admission
        assert admission is not None
        self.instance.admission = admission._replace(admitted_at=self.now)
        self.instance.conditions.pop(Condition.WAITING_TO_START, None)
