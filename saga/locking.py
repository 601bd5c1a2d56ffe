"""What a saga does with its lock (row 23): it waits for it before its first step, has it, and gives it back."""

from __future__ import annotations

from dataclasses import replace

from ..events.clock import format_duration
from .definition import Definition, StepPlan
from .forward import Forward
from .inputs import Change, Locked, Observed
from .instance import Instance
from .lock import Lock, LockState
from .words import Condition, Phase


def ask_for_lock(definition: Definition, instance: Instance, event: Observed, now: int) -> None:
    """Let a saga that has just begun want its lock; until somebody says how that stands it opens no step.

    An observer holds nothing: it would keep those out that it only watches.
    """
    plan = definition.lock
    if plan is None or event.lock is None or definition.observe_only:
        return
    instance.lock = Lock(plan.name, event.lock, "waiting", now, now + plan.waits)
    instance.deadline_at = None  # its time begins when it has the lock


class Locking(Forward):
    """Decides what becomes of a saga's lock."""

    def locked(self, told: Locked) -> None:
        """The store has said whether the saga has the lock that it wants."""
        lock, plan = self.instance.lock, self.definition.lock
        if lock is None or plan is None or not self.instance.waits_for_lock:
            self._ignore("NoLock", "it waits for no lock", quiet=True)
            return
        if told.granted:
            self._have(lock, plan.expires)
            return
        held = f"held by {told.holder}" if told.holder else "passed on to the next one"
        if plan.otherwise == "refuse":
            self._go_without("refused", "LockRefused", f"the lock {lock.of} is {held}")
            return
        self.instance.lock = replace(lock, holder=told.holder)
        ahead = f", {told.ahead} before it" if told.ahead else ""
        self._remark(Condition.WAITING_FOR_LOCK, "Queued", f"waits for the lock {lock.of}, {held}{ahead}")
        self.changes.append(Change(None, self.instance.phase, f"waits for the lock {lock.of}"))

    def _have(self, lock: Lock, expires: int) -> None:
        instance = self.instance
        instance.lock = replace(lock, state="held", since=self.now, until=self.now + expires, taken_at=self.now)
        instance.conditions.pop(Condition.WAITING_FOR_LOCK, None)
        self.changes.append(Change(None, instance.phase, f"has the lock {lock.of}"))
        self._set_off()

    def _set_off(self) -> None:
        """Its time begins, and its first steps have their turn: they follow the start event."""
        instance = self.instance
        if self.definition.deadline is not None:
            instance.deadline_at = self.now + self.definition.deadline
        assert instance.started_by is not None
        self.follows = (instance.started_by.id, instance.origin)

    def _go_without(self, state: LockState, error: str, message: str) -> None:
        """It does not get the lock: it is undone, unless the pivot has happened meanwhile."""
        self._leave(state)
        if self._may_go_back():
            self._compensate(None, error, message, None)
            return
        self._remark(Condition.LATE, error, message)
        self.changes.append(Change(None, self.instance.phase, f"{self._why_forward()} it goes on without the lock"))
        self._set_off()

    def lock_elapsed(self) -> None:
        """It has waited long enough, or held the lock too long."""
        lock, plan = self.instance.lock, self.definition.lock
        assert lock is not None
        assert plan is not None
        if lock.state == "waiting":
            message = f"the lock {lock.of} was not free within {format_duration(plan.waits)}"
            self._remark(Condition.LATE, "LockTimeout", message)
            self._go_without("left", "LockTimeout", message)
            return
        message = f"it held the lock {lock.of} for {format_duration(plan.expires)}, now the next one has its turn"
        self.instance.lock = replace(lock, state="expired", since=self.now, until=None)
        self._remark(Condition.LATE, "LockExpired", message)
        self.changes.append(Change(None, self.instance.phase, f"its lock {lock.of} expired"))

    def _leave(self, state: LockState) -> None:
        lock = self.instance.lock
        assert lock is not None
        self.instance.lock = replace(lock, state=state, since=self.now, until=None)
        self.instance.conditions.pop(Condition.WAITING_FOR_LOCK, None)

    def _compensate(self, plan: StepPlan | None, error: str, message: str, event: str | None) -> None:
        if self.instance.waits_for_lock:
            self._leave("left")
        super()._compensate(plan, error, message, event)

    def _end(self, phase: Phase, announce: str | None) -> None:
        super()._end(phase, announce)
        if self.instance.lock is not None and self.instance.lock.state == "held":
            self._leave("released")
