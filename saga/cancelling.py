"""A whole saga is undone because somebody says so: a person, or an event."""

from __future__ import annotations

from typing import NamedTuple

from .forward import Forward
from .inputs import Observed, Operator
from .words import Phase


class _Refusal(NamedTuple):
    """Why a saga cannot be cancelled."""

    reason: str
    message: str


class Cancelling(Forward):
    """The moves that undo a saga though no step of it has failed."""

    def cancelled_by(self, event: Observed) -> None:
        """An event says that the process is off: as `saga cancel`, but an observer follows it too."""
        refusal = self._refusal()
        if refusal is not None:
            self._ignore(refusal.reason, f"{event.type} came, but {refusal.message}")
            return
        self.instance.cancelling = True
        self._compensate(None, "Cancelled", event.type, event.id)

    def _cancel(self, command: Operator) -> None:
        refusal = self._refusal()
        if self.instance.doubts and self.instance.phase is Phase.COMPLETED and self._undoable():
            self.instance.cancelling = True
            self._undo_all("Cancelled", command.reason, None)
        elif refusal is not None:
            self.ignored = f"it cannot be cancelled: {refusal.message}"
        elif self.definition.observe_only:
            self.ignored = "it cannot be cancelled: this saga only observes"
        else:
            self.instance.cancelling = True
            self._undo_all("Cancelled", command.reason, None)

    def _refusal(self) -> _Refusal | None:
        instance, pivot = self.instance, self.definition.pivot
        if instance.phase is Phase.COMPENSATING:
            return _Refusal("Undone", f"it is {instance.phase} already")
        if instance.phase is not Phase.RUNNING:
            return _Refusal("Late", f"it is {instance.phase} already")
        if instance.kept:
            return _Refusal("Settled", "every step is settled, from here it only completes")
        if pivot is not None and not self._may_go_back():
            state = self._step(pivot).state
            return _Refusal("AfterPivot", f"the pivot {pivot.name} is {state}, from here it only goes forward")
        return None

    def _undoable(self) -> bool:
        """Whether all that the saga did can be undone still, or again: nothing lies behind the pivot."""
        kept, self.instance.kept = self.instance.kept, False
        may = self._may_go_back()
        self.instance.kept = kept
        return may and (not kept or self.instance.phase.ended)

    def _undo_all(self, error: str, message: str, event: str | None) -> None:
        """Undo a running saga, or one that has ended well: that one is opened again for it."""
        if self.instance.phase.ended:
            self._reopen()
            self.instance.kept = False
            self.instance.announced = None  # what it has told is not true any more, so it tells the other end as well
        self._compensate(None, error, message, event)
