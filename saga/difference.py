"""Where two readings of one history part: what was recorded and what is folded now, or two versions of a definition.

Pure. `recorded` holds a fold against what the store says (`saga replay --verify`, S3); `tried` holds the version that a
saga runs under against another one (`saga upgrade --check`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from operator import attrgetter
from typing import Any, NamedTuple

from .definition import Definition
from .inputs import Migrated, Observed, Send, Transition, Unbuildable, Unloaded, command_id
from .instance import Instance, Step
from .occurrence import wire_of
from .outputs import read_output, write_output
from .recorded import Recorded
from .replay import Applied, changes_text, fold, refold
from .words import StepState


class Difference(NamedTuple):
    """The first thing in which two readings differ.

    Args:
        seq: of the input at which it shows.
        step: that it is about; None for the saga itself.
        what: verdict, decisions, outputs, state, commands, step, phase, lock, limit, or error.
        was, now: the two readings.
    """

    seq: int
    step: str | None
    what: str
    was: str
    now: str


def recorded(saga: Recorded, definitions: Mapping[int, Definition]) -> Difference | None:
    """Fold a saga again under its own versions, and compare with everything that the store has of it (S3).

    Args:
        saga: as the store has it.
        definitions: of its type, by version.
    """
    instance: Instance | None = None
    expected: dict[str, Send] = {}
    for applied, transition in refold(definitions, saga.instance.version, saga.beginning, saga.inputs):
        instance = transition.instance
        found = _row_difference(applied, transition)
        if found is not None:
            return found
        _expect(expected, saga.instance.id, applied, transition)
    if instance is None:
        return Difference(0, None, "state", saga.instance.phase.value, "a saga without a history")
    text = instance.to_json()
    if text != saga.state:
        path, was, now = _first(json.loads(saga.state), json.loads(text))
        step = path[1] if len(path) > 1 and path[0] == "steps" else None
        return Difference(instance.seq, step, f"state {'.'.join(path)}", was, now)
    missing, more = sorted(set(expected) - saga.sent), sorted(saga.sent - set(expected))
    if missing:
        send = expected[missing[0]]
        return Difference(instance.seq, send.step, "commands", f"no {send.type} was sent", f"{send.type} is sent")
    if more:
        return Difference(instance.seq, None, "commands", f"command {more[0]} was sent", "nobody sends it")
    return None


def tried(saga: Recorded, definitions: Mapping[int, Definition], new: Definition, now: int) -> Difference | None:
    """Read a live saga's history under another version; None where nothing that has happened would differ.

    Args:
        saga: as the store has it.
        definitions: of its type, by version.
        new: the version to try.
        now: the store's clock, microseconds: a limit that the other version would have let pass by now differs too.
    """
    first = saga.inputs[0].input
    if isinstance(first, Observed) and first.type not in new.start:
        return Difference(1, None, "start", first.type, f"only {' or '.join(new.start)} starts it")
    other = fold(new, saga.beginning, saga.inputs)
    mine = other_ = None
    for applied, mine in refold(definitions, saga.instance.version, saga.beginning, saga.inputs):
        try:
            _, other_ = next(other)
        except (LookupError, AttributeError, ValueError, AssertionError, TypeError) as error:
            step = getattr(applied.input, "step", None)
            return Difference(applied.seq, step, "error", mine.verdict, f"it cannot be applied: {type(error).__name__}")
        if isinstance(applied.input, Migrated):
            continue
        found = _step_difference(applied.seq, mine, other_)
        if found is not None:
            return found
    assert mine is not None
    assert other_ is not None
    return _lock(mine.instance, other_.instance) or _limit(mine.instance, other_.instance, now)


def _row_difference(applied: Applied, transition: Transition) -> Difference | None:
    """Compare what an input led to with what the history says."""
    seq = applied.seq
    if (applied.verdict, applied.reason) != (transition.verdict, transition.reason):
        was = f"{applied.verdict} {applied.reason}".strip()
        return Difference(seq, None, "verdict", was, f"{transition.verdict} {transition.reason}".strip())
    now = changes_text(transition.changes)
    if now != applied.changes:
        for was, is_ in zip_longest(json.loads(applied.changes), json.loads(now)):
            if was != is_:
                step = (was or is_)[0]
                return Difference(seq, step, "decisions", _decision(was), _decision(is_))
    return None


def _expect(expected: dict[str, Send], saga_id: str, applied: Applied, transition: Transition) -> None:
    """Note the commands that must have gone out: what could not be built, and what waits for its code, did not."""
    match applied.input:
        case Unbuildable():
            for id_ in [i for i, send in expected.items() if _is(send, applied.input.step, applied.input.kind)][-1:]:
                del expected[id_]
        case Unloaded():
            for output in map(read_output, applied.input.outputs):
                if isinstance(output, Send):
                    expected.pop(_id(saga_id, output), None)
    for output in transition.outputs:
        if isinstance(output, Send) and not output.again:
            expected[_id(saga_id, output)] = output


def _is(send: Send, step: str, kind: str) -> bool:
    return (send.step, send.kind) == (step, kind)


def _id(saga_id: str, send: Send) -> str:
    return command_id(saga_id, *wire_of(send.step), send.kind, send.attempt)


def _step_difference(seq: int, mine: Transition, other: Transition) -> Difference | None:
    """Compare two versions' readings of one input: what a step has come to, what goes out, and where the saga is."""
    for name in dict.fromkeys((*mine.instance.steps, *other.instance.steps)):
        was, now = mine.instance.steps.get(name), other.instance.steps.get(name)
        if (was is None and _begun(now)) or (now is None and _begun(was)) or (was and now and _parts(was, now)):
            return Difference(seq, name, "step", _said(was, mine), _said(now, other))
    if mine.instance.phase is not other.instance.phase:
        return Difference(seq, None, "phase", mine.instance.phase.value, other.instance.phase.value)
    for was_out, now_out in zip_longest(map(write_output, mine.outputs), map(write_output, other.outputs)):
        if was_out != now_out:
            output = read_output(was_out or now_out or "")
            return Difference(seq, getattr(output, "step", None), "outputs", _output(was_out), _output(now_out))
    if mine.verdict != other.verdict:
        was_said = f"{mine.verdict} {mine.reason}".strip()
        return Difference(seq, None, "verdict", was_said, f"{other.verdict} {other.reason}".strip())
    return None


def _begun(step: Step | None) -> bool:
    """Whether anything has come of a step; one that has not begun is as good as none."""
    return step is not None and (step.state not in (StepState.PENDING, StepState.SKIPPED) or step.done is not None)


def _parts(was: Step, now: Step) -> bool:
    """Whether a step has come to something else."""
    stands = attrgetter("state", "attempt", "undo_attempt", "done")
    return bool(stands(was) != stands(now))


def _said(step: Step | None, transition: Transition) -> str:
    if step is None:
        return "there is no such step"
    name = next(name for name, each in transition.instance.steps.items() if each is step)
    reasons = [change.reason for change in transition.changes if change.step == name and change.reason]
    return f"{step.state}{f' ({reasons[-1]})' if reasons else ''}"


def _lock(mine: Instance, other: Instance) -> Difference | None:
    """A lock is what the store says, and nobody else may have it: no other version can take or drop it afterwards."""
    was, is_ = (
        f"{lock.state} {lock.of}" if (lock := each.lock) is not None and lock.state in ("waiting", "held") else "none"
        for each in (mine, other)
    )
    return Difference(mine.seq, None, "lock", was, is_) if was != is_ else None


def _limit(mine: Instance, other: Instance, now: int) -> Difference | None:
    due, before = other.next_due, mine.next_due
    if due is None or due > now or (before is not None and before <= now):
        return None
    step = next((name for name, each in other.steps.items() if due in each.timers()), None)
    return Difference(mine.seq, step, "limit", "its time is not over", "its time would be over at once")


def _decision(change: Sequence[Any] | None) -> str:
    if change is None:
        return "nothing"
    _, state, reason = change
    return f"{state}{f' ({reason})' if reason else ''}"


def _output(text: str | None) -> str:
    if text is None:
        return "nothing is sent"
    output = read_output(text)
    return f"{output.type} is sent" if not hasattr(output, "kind") or isinstance(output, Send) else f"{output.kind}="


def _first(was: Any, now: Any, path: tuple[str, ...] = ()) -> tuple[tuple[str, ...], str, str]:
    """Find the first place in which two values differ; the texts hold no payload, a state never does."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in dict.fromkeys((*was, *now)):
            if was.get(name) != now.get(name):
                return _first(was.get(name), now.get(name), (*path, str(name)))
    if isinstance(was, list) and isinstance(now, list):
        for place, (left, right) in enumerate(zip_longest(was, now)):
            if left != right:
                return _first(left, right, (*path, str(place)))
    return path, json.dumps(was), json.dumps(now)
