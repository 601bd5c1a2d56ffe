"""Sagas within sagas: what a child tells its parent, and what becomes of it when its parent undoes it (row 21)."""

from __future__ import annotations

from .cancelling import Cancelling
from .inputs import Change, Observed, Tell, UndoAsked
from .words import Phase

FAILED = "SagaFailed"
UNDONE = "SagaUndone"
REFUSED = "SagaUndoRefused"
_ENDS = {
    Phase.COMPLETED: "SagaCompleted",
    Phase.COMPENSATED: "SagaCompensated",
    Phase.CANCELLED: "SagaCancelled",
    Phase.FAILED: FAILED,
}
OUTCOMES = frozenset((*_ENDS.values(), UNDONE, REFUSED))
"""What a child may say, by event type; `outcomes` has the events."""
_UNDONE = (Phase.COMPENSATED, Phase.CANCELLED)


class Children(Cancelling):
    """The moves of a saga that another one has begun."""

    def undo_asked(self, asked: UndoAsked) -> None:
        """The parent undoes this saga, whatever it is at: what runs is cancelled, what ended well is opened again."""
        instance = self.instance
        if instance.parent is None or not instance.parent.same(asked.parent):
            # Its own child never began, because this one had the key: there is nothing to undo.
            self._ignore("OtherParent", f"{asked.parent.id} asks to undo a saga that it has not begun", quiet=True)
            self.outputs.append(Tell(UNDONE, asked.parent, asked.id, empty=True))
            return
        instance.undo_asked = asked.id
        self.changes.append(Change(None, instance.phase, f"{asked.parent.id} undoes it"))
        if instance.phase in _UNDONE:
            self._tell(UNDONE)
        elif instance.phase is Phase.FAILED:
            self._tell(REFUSED)
        elif instance.phase is Phase.COMPLETED or (instance.phase is Phase.RUNNING and not instance.kept):
            self._undo_for_parent()

    def _undo_for_parent(self) -> None:
        instance = self.instance
        assert instance.parent is not None
        if not self._undoable():
            self.changes.append(Change(None, instance.phase, "its pivot is passed: it refuses to be undone"))
            self._tell(REFUSED)
            instance.undo_asked = None
            return
        instance.cancelling = True
        self._undo_all("Cancelled", f"undone by {instance.parent.id}", instance.undo_asked)

    def tell_parent(self, before: Phase) -> None:
        """Tell the parent of an end that this input has led to, once all of it is decided.

        Args:
            before: the phase before the input.
        """
        instance = self.instance
        if instance.parent is None or instance.phase is before:
            return
        if instance.phase is Phase.COMPLETED and instance.undo_asked is not None:
            self._undo_for_parent()  # it was asked when nothing but the end was left to do
            self.settle()
        if not instance.phase.ended:
            return
        if instance.undo_asked is None:
            word = _ENDS[instance.phase]
            if word != instance.told:  # a reopening that ends as before is no news
                self._tell(word)
        else:
            self._tell(UNDONE if instance.phase in _UNDONE else REFUSED)

    def _tell(self, word: str) -> None:
        instance = self.instance
        assert instance.parent is not None
        instance.told = word
        self.outputs.append(Tell(word, instance.parent, instance.undo_asked))

    def second_start(self, event: Observed) -> None:
        """A start that begins nothing: whoever has sent it as a parent is told at once."""
        own = self.instance.parent
        if event.parent is not None and (own is None or not own.same(event.parent)):
            self.outputs.append(Tell(_ENDS[Phase.CANCELLED], event.parent, None))
