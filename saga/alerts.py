"""What somebody should hear of at once, decided from what happened: pure, and the same whoever looks.

Each alert has an id made of what it is about and of which time it is: the same occurrence always has the same id, so it
is told once however often it is seen, by however many coordinators, before and after a restart. When the same comes
again later, it is another occurrence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import Field

from ..events.event import Event
from ..events.ids import derived_id
from .ends import has_ended
from .explanation import Explanation, Reason
from .inputs import HandlerGaveUp
from .instance import Instance
from .names import saga_id
from .outcomes import ALERTS_TOPIC
from .refusals import Refused
from .routing import Arrival
from .words import Condition, Phase, StepState
from .work import Moved

Kind = Literal["Stuck", "Failed", "Late", "DeadLetter", "BreakerOpened"]

_AS_IT_SHOULD = frozenset(
    (
        "Approval",
        "ChildOpen",
        "Ended",
        "Queued",
        "Slow",
        "TimersHeld",
        "UndoStopped",
        "WaitingForLock",
        "WaitingToStart",
        "Working",
        "BrokerDown",
        "CoordinatorDown",
    )
)
"""Reasons of `why` for which a saga waits as it should, or which hold for all sagas at once."""


class AlertRaised(Event, topic=ALERTS_TOPIC, key="key", format="json"):
    """Somebody should look.

    Args:
        key: the saga's business key; of what concerns no saga, what it is about.
        kind: what happened.
        saga, type: of which saga; None where it is about none.
        step: of which step, where it is about one.
        at: when it happened.
        reason: a machine-readable word: of a condition, or the class of an error.
        summary: one sentence.
        why: what `saga why` says of it, line by line.
        remedies: what a person can do: commands, or sentences.
        count: how many occurrences it stands for; many that are alike are told together.
        sagas: of such a burst, some of the sagas.
    """

    key: str
    kind: Kind
    saga: str | None
    type: str | None
    step: str | None
    at: datetime
    reason: str
    summary: str
    why: str
    remedies: list[str]
    count: int = 1
    sagas: list[str] = Field(default_factory=list)


class Alert(NamedTuple):
    """One occurrence.

    Args:
        id: of the occurrence.
        kind, saga, type, key, step, reason, summary: see `AlertRaised`.
        at: microseconds.
        remedies: what can be done, where `why` has nothing to say.
    """

    id: str
    kind: Kind
    saga: str | None
    type: str | None
    key: str
    step: str | None
    reason: str
    summary: str
    at: int
    remedies: tuple[str, ...] = ()


def of_moves(moves: Iterable[Moved], now: int) -> Iterator[Alert]:
    """Give what sagas went through that is worth an alert; what only observes raises none, as it sends nothing.

    Args:
        moves: of one transaction.
        now: microseconds.
    """
    for definition, before, after in moves:
        failed = after.phase is Phase.FAILED
        if (after.conditions or failed) and not definition.observe_only:
            yield from _of_saga(before, after, now)


def _of_saga(before: Instance | None, after: Instance, now: int) -> Iterator[Alert]:
    if after.phase is Phase.FAILED and has_ended(before, after):
        cause = after.cause or {}
        step, error = cause.get("step"), cause.get("error") or "Failed"
        where = f"step {step}: " if step else ""
        yield _alert(
            "Failed", after, step, str(error), f"{after.id} has FAILED and waits for a person: {where}{error}", now
        )
    for word, kind in _REMARKED.items():
        remark = after.conditions.get(word)
        if remark is None or (
            word is Condition.WAITING_FOR_PERSON and (remark.reason == "Approval" or after.phase.ended)
        ):
            continue
        if before is None or before.conditions.get(word) != remark:
            yield _alert(kind, after, remark.step, remark.reason, f"{after.id}: {remark.message}", now)


_REMARKED: dict[Condition, Kind] = {Condition.LATE: "Late", Condition.WAITING_FOR_PERSON: "Stuck"}


def _alert(kind: Kind, instance: Instance, step: str | None, reason: str, summary: str, at: int) -> Alert:
    # A saga's number of inputs only grows, and each of its states is committed once.
    id_ = derived_id("alert", kind, instance.id, str(instance.seq), reason)
    return Alert(id_, kind, instance.id, instance.type, instance.key, step, reason, summary, at)


def of_reports(arrivals: Iterable[Arrival], now: int) -> Iterator[Alert]:
    """Give the events that services gave to their dead letters, as they report it themselves.

    Args:
        arrivals: what was read.
        now: microseconds.
    """
    for arrival in arrivals:
        given_up = arrival.input
        if not isinstance(given_up, HandlerGaveUp) or not given_up.dead:
            continue
        target = arrival.targets[0] if arrival.targets else None
        name = saga_id(target.type, target.key, target.run or 1) if target is not None else None
        yield Alert(
            derived_id("alert", "DeadLetter", given_up.id),
            "DeadLetter",
            name,
            target.type if target is not None else None,
            target.key if target is not None else arrival.envelope.key,
            None,
            given_up.error,
            f"{given_up.service}, handler {given_up.handler}, has given {given_up.event_type} up after "
            f"{given_up.attempts} tries: {given_up.error}",
            now,
            (f"saga dlq list --service {given_up.service}", "mend the handler, then: saga dlq retry ID"),
        )


def of_refused(refused: Iterable[Refused], now: int) -> Iterator[Alert]:
    """Give the records that the coordinator could not apply and gave to the dead letters.

    Args:
        refused: they, with reasons.
        now: microseconds.
    """
    for arrival, _ in refused:
        delivery = arrival.delivery
        yield Alert(
            derived_id("alert", "DeadLetter", delivery.topic, str(delivery.partition), str(delivery.offset)),
            "DeadLetter",
            None,
            None,
            arrival.envelope.key or delivery.topic,
            None,
            "Unreadable",
            f"the coordinator could not apply a record of {delivery.topic}, partition {delivery.partition}, "
            f"offset {delivery.offset}",
            now,
            ("saga dlq list --service choreo.coordinator",),
        )


def breaker(group: str, since: int, over: int, now: int) -> Alert:
    """Give the alert of a breaker that opened: too many sagas would time out at once (ruling R1).

    Args:
        group: of the coordinators.
        since: until when a person has let timers through before, microseconds: so each opening has an id of its own.
        over: sagas that pass a limit.
        now: microseconds.
    """
    return Alert(
        derived_id("alert", "BreakerOpened", group, str(since)),
        "BreakerOpened",
        None,
        None,
        group,
        None,
        "MassTimeout",
        f"{over} sagas pass a limit at once, which looks like an outage: limits are held until a person lets them pass",
        now,
        ("saga doctor", "saga list --open --group-by step", "saga resume --reason ..."),
    )


def stuck(instance: Instance, explanation: Explanation, now: int, after: int) -> Alert | None:
    """Say whether a saga is stuck: it has waited for the same for a while, and `why` knows of something that is wrong.

    A saga that waits as it should is not: nobody is late, a person is asked to approve, another one holds its lock.

    Args:
        instance: as it is.
        explanation: why it is where it is.
        now: microseconds.
        after: how long it must have waited, microseconds.
    """
    if (still := standstill(instance, explanation, now, after)) is None:
        return None
    reason, since = still
    summary = f"{instance.id} is stuck: {reason.sentence}"
    id_ = _stuck_id(instance, reason.step, since)
    return Alert(id_, "Stuck", instance.id, instance.type, instance.key, reason.step, reason.code, summary, now)


def standstill(instance: Instance, explanation: Explanation, now: int, after: int) -> tuple[Reason, int] | None:
    """Give the reason for which a saga is stuck, and since when it waits; None: it is not. The arguments of `stuck`."""
    if not _may_be_stuck(instance):
        return None
    for reason in explanation.reasons:
        since = reason.since if reason.step not in instance.steps else _waits_since(instance, reason.step)
        if reason.code not in _AS_IT_SHOULD and since is not None and now - since >= after:
            return reason, since
    return None


def holds(instance: Instance, id_: str, step: str | None) -> bool:
    """Say whether a saga that was called stuck still is: it waits for the same answer since the same time.

    Args:
        instance: as it is now.
        id_, step: of the alert.
    """
    if step not in instance.steps or not _may_be_stuck(instance) or instance.steps[step].state not in _AWAITED:
        return False
    return id_ == _stuck_id(instance, step, _waits_since(instance, step))


_AWAITED = (StepState.WAITING, StepState.RETRYING, StepState.COMPENSATING)


def _may_be_stuck(instance: Instance) -> bool:
    return not instance.phase.ended and Condition.WAITING_FOR_PERSON not in instance.conditions


def _stuck_id(instance: Instance, step: str | None, since: int) -> str:
    return derived_id("alert", "Stuck", instance.id, step or "", str(since))


def _waits_since(instance: Instance, name: str) -> int:
    """Say since when a saga waits for the answer of a step, or of its undo."""
    step = instance.steps[name]
    return step.undo_ready_at if step.state is StepState.COMPENSATING else step.ready_at


def in_words(explanation: Explanation, ago: Iterable[str] = ()) -> str:
    """Write an explanation as lines of text, as `saga why` does.

    Args:
        explanation: of a saga.
        ago: when each prospect comes, in words; in its order.
    """
    lines = [explanation.headline, *(f"why   {each.sentence}" for each in explanation.reasons)]
    lines += [f"then  {when}: {each.sentence}" for each, when in zip(explanation.prospects, ago, strict=False)]
    lines += [f"do    {remedy}" for remedy in explanation.remedies]
    return "\n".join(lines)
