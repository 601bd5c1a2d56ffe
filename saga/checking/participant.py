"""A participant of the model: one step's service with its inbox and guard, as `docs/semantics.md` tells them.

It is a service at its most awkward: its effect lies outside its database, so it may have had it and never have said so.
Pure: a state and what it does next, all as small values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..definition import StepPlan

BY_HAND = 9
"""As an effect: a person has marked it as undone, and looks after it from then on."""


class Said(NamedTuple):
    """What a participant tells the saga.

    Args:
        role: the participant's number.
        kind: "done", "failed", "gave-up", "undone", "undo-gave-up".
        number: which of its triggers, or which attempt of the undo.
        time: by its own clock.
        empty: an undo found nothing to undo.
        copy: the same, published a second time under another id.
    """

    role: int
    kind: str
    number: int
    time: int
    empty: bool = False
    copy: bool = False


class Source(NamedTuple):
    """What triggers a participant: another one's answer, "done" or "failed"."""

    role: int
    kind: str


class State(NamedTuple):
    """What a participant knows and has done.

    Args:
        effect: 0 none, 1 it stands, `BY_HAND`.
        step: what its inbox holds of the step as a whole: "" nothing, "done", "refused", "unknown".
        rows: what its inbox holds of each trigger: "-" nothing, D done, F said that it failed, G gave up before it did
            anything, H gave up after its effect, C died after its effect, R refused, U undone.
        undos: of each attempt of its undo the inbox's state ("-", A answered, E found nothing, G gave up), and the
            triggers that the command names.
        fresh: messages that lie before it: a trigger's number, or that of an undo, negative.
        late: messages that it has not come to yet, and may never.
    """

    effect: int = 0
    step: str = ""
    rows: tuple[str, ...] = ()
    undos: tuple[tuple[str, frozenset[int]], ...] = ()
    fresh: tuple[int, ...] = ()
    late: tuple[int, ...] = ()


class Outcome(NamedTuple):
    """One thing that a participant may do with a message: what it is called, what it costs, and what comes of it."""

    label: str
    fault: str
    state: State
    said: Said | None = None


@dataclass(frozen=True)
class Role:
    """Which step a participant does.

    Args:
        number: its place among the participants.
        name: of the step, or of the occurrence.
        plan: of the step.
        sources: the answers that trigger it; () for the start, or for a command.
        needs: of each group of sources (by place, from 1) one must have come.
    """

    number: int
    name: str
    plan: StepPlan
    sources: tuple[Source, ...]
    needs: tuple[frozenset[int], ...]

    @property
    def commanded(self) -> bool:
        """Whether the saga sends it its command."""
        return self.plan.send is not None

    @property
    def rooted(self) -> bool:
        """Whether the start itself triggers it."""
        return not (self.sources or self.commanded or self.plan.final) and bool(self.plan.done)

    def begin(self) -> State:
        """Give its state before anything has come."""
        return State(rows=("-",) * (0 if self.commanded else max(1, len(self.sources))))

    # ---- what comes to it ----------------------------------------------------------------------------------------

    def triggered(self, state: State, index: int) -> State:
        """Lay a trigger before it: a source's answer, the start, or an attempt of its command."""
        rows = state.rows + ("-",) * (index - len(state.rows))
        if index in state.fresh or index in state.late or rows[index - 1] != "-":
            return state._replace(rows=rows)  # the inbox has it
        return state._replace(rows=rows, fresh=_with(state.fresh, index))

    def asked_to_undo(self, state: State, attempt: int, names: frozenset[int]) -> State:
        """Lay an undo command before it."""
        undos = state.undos + (("-", frozenset[int]()),) * (attempt - len(state.undos))
        if -attempt in state.fresh or -attempt in state.late or undos[attempt - 1][0] != "-":
            return state._replace(undos=undos)
        undos = (*undos[: attempt - 1], ("-", names), *undos[attempt:])
        return state._replace(undos=undos, fresh=_with(state.fresh, -attempt))

    # ---- what it does --------------------------------------------------------------------------------------------

    def options(self, state: State) -> Iterator[Outcome]:
        """List everything that it may do with the first message that lies before it.

        Whatever it puts aside it may come to whenever it has done something else; doing it at another moment is no
        different, because nobody can tell the moments apart: its answers travel as long as they like.
        """
        message = state.fresh[0]
        rest = state._replace(fresh=state.fresh[1:])
        yield from self._forward(rest, message) if message > 0 else self._undo(rest, -message)
        yield Outcome("puts it aside", "", rest._replace(late=_with(rest.late, message)))

    def _forward(self, state: State, index: int) -> Iterator[Outcome]:
        row = state.rows[index - 1]
        moved = _woken(state)
        if row in "RU" or (self.commanded and row in "-C" and state.step in ("refused", "unknown")):
            yield Outcome("refuses it: it was undone before", "", _row(moved, index, "U" if row == "U" else "R"))
            return
        if row == "C":  # it died after its effect: the idempotency key makes it one effect, whatever it is called now
            yield Outcome("comes back and succeeds", "", self._settled(moved, index, "D", 1), self._done(state, index))
            return
        if not self._complete(state, index):
            yield Outcome("keeps it in mind", "", _row(moved, index, "D"))
            return
        yield Outcome("succeeds", "", self._settled(moved, index, "D", 1), self._done(state, index))
        if self.plan.failed and not state.effect:  # who says so is certain that no attempt has had its effect
            said = Said(self.number, "failed", index, self._clock(state))
            yield Outcome("says that it failed", "", self._settled(moved, index, "F", state.effect), said)
        gave_up = Said(self.number, "gave-up", index, self._clock(state))
        yield Outcome("gives up before it did anything", "", _row(moved, index, "G"), gave_up)
        yield Outcome("gives up after its effect", "", _effect(_row(moved, index, "H"), 1), gave_up)
        dead = _effect(_row(state, index, "C"), 1)
        yield Outcome("dies after its effect", "crashes", dead._replace(late=_with(dead.late, index)))

    def _undo(self, state: State, attempt: int) -> Iterator[Outcome]:
        names = state.undos[attempt - 1][1]
        moved = _woken(state)
        happened = False
        marked = moved
        for index in sorted(names):
            if index > len(marked.rows):
                marked = marked._replace(rows=marked.rows + ("-",) * (index - len(marked.rows)))
            row = marked.rows[index - 1]
            if row in "-G":
                marked = _row(marked, index, "R")
            elif row in "CH":
                happened = True
                marked = _row(marked, index, "U")
            elif row in "DFU":
                happened = True
        if state.step == "":
            marked = marked._replace(step="refused")
        elif state.step in ("done", "unknown"):
            happened = True
            marked = marked._replace(step="unknown")
        if not self.plan.done:
            happened = True  # there is no forward handler to look for
        if not happened:
            said = Said(self.number, "undone", attempt, self._answered(state), True)
            yield Outcome("finds nothing to undo", "", _undone(marked, attempt, "E"), said)
            return
        said = Said(self.number, "undone", attempt, self._answered(state))
        yield Outcome("is undone", "", _effect(_undone(marked, attempt, "A"), 0), said)
        gave_up = Said(self.number, "undo-gave-up", attempt, 0)
        yield Outcome("gives up its undo", "", _undone(marked, attempt, "G"), gave_up)

    # ---- small pieces --------------------------------------------------------------------------------------------

    def _complete(self, state: State, index: int) -> bool:
        come = {place for place, row in enumerate(state.rows, start=1) if row == "D"} | {index}
        return all(group & come for group in self.needs)

    def _settled(self, state: State, index: int, row: str, effect: int) -> State:
        settled = _effect(_row(state, index, row), effect)
        return settled._replace(step="done") if self.commanded and state.step == "" else settled

    def _done(self, state: State, index: int) -> Said:
        return Said(self.number, "done", index, self._clock(state))

    @staticmethod
    def _clock(state: State) -> int:
        """By its own clock: between two answers to undos lies one moment for whatever it does forward."""
        return 2 * sum(known != "-" for known, _ in state.undos) + 1

    @staticmethod
    def _answered(state: State) -> int:
        return 2 * sum(known != "-" for known, _ in state.undos) + 2


def _with(messages: tuple[int, ...], one: int) -> tuple[int, ...]:
    return tuple(sorted({*messages, one}, reverse=True))


def _woken(state: State) -> State:
    """After each thing that it does, it may come to what it has put aside."""
    return state._replace(fresh=tuple(sorted({*state.fresh, *state.late}, reverse=True)), late=())


def _row(state: State, index: int, row: str) -> State:
    return state._replace(rows=(*state.rows[: index - 1], row, *state.rows[index:]))


def _undone(state: State, attempt: int, known: str) -> State:
    undos = (*state.undos[: attempt - 1], (known, frozenset[int]()), *state.undos[attempt:])
    return state._replace(undos=undos)


def _effect(state: State, effect: int) -> State:
    return state if state.effect == BY_HAND else state._replace(effect=effect)
