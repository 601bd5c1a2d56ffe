"""Events that come in vain, and what the saga says of them: ignored, shown to a person, or a reason to undo."""

from __future__ import annotations

from .cancelling import Cancelling
from .inputs import Change, Observed
from .instance import Doubt
from .policy import DEFAULT_POLICY, Stray
from .words import Condition, Phase

_STRAYS: dict[str, Stray] = {
    "SecondStart": "duplicate",
    "AlreadyDone": "duplicate",
    "AlreadyAnswered": "unexpected",
    "Unasked": "unexpected",
    "NotAsked": "unexpected",
    "EarlierAttempt": "unexpected",
    "AfterPivot": "unexpected",
    "Settled": "unexpected",
    "Late": "late",
}
"""Why an event was ignored, as a policy calls it; what is not here has a rule that no policy changes."""


class Strays(Cancelling):
    """Decides what becomes of an event that has changed nothing."""

    def react(self, event: Observed) -> None:
        """Do what the policy of an event says, once it has turned out to come in vain."""
        stray = _STRAYS.get(self.ignored)
        policy = self.definition.policies.get(event.type, DEFAULT_POLICY)
        if stray is None or policy is DEFAULT_POLICY:
            return
        if self.instance.phase.ended:
            stray = "late"
        reaction = policy.reaction(stray)
        remark = self.instance.conditions[Condition.UNEXPECTED]
        if reaction == "undo" and self._is_undone_anyway():
            return
        if reaction == "undo" and self._undoable() and not self.definition.observe_only:
            self.ignored = ""
            self._undo_all(stray.capitalize(), f"{event.type} came, {stray}: {remark.message}", event.id)
        elif reaction != "ignore":
            self._ask_person(event, stray, remark.message)

    def _ask_person(self, event: Observed, stray: Stray, message: str) -> None:
        if any((doubt.type, doubt.stray) == (event.type, stray) for doubt in self.instance.doubts):
            return  # one answer is enough for the same thing twice
        self.instance.doubts = [*self.instance.doubts, Doubt(event.type, event.id, stray, message, self.now)]
        self.changes.append(Change(None, self.instance.phase, f"a person is asked: {message}"))

    def _is_undone_anyway(self) -> bool:
        return self.instance.phase not in (Phase.RUNNING, Phase.COMPLETED)
