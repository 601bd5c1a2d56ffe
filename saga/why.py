"""Why a saga is where it is: what it waits for, who should answer and why they have not, and what comes by itself.

Pure: the saga's state and history, what was seen around it, and a time go in; an `Explanation` comes out. What would
happen next is not guessed: the saga's own timers are played forward through `advance`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from ..events.catalog import BreakerAnnouncement, HandlerAnnouncement, ServiceAnnouncement
from ..events.clock import format_duration
from ..events.envelope import TopicPartition
from . import pause_report
from .advance import advance
from .definition import Definition, StepPlan
from .elapsing import TURNED
from .explanation import Explanation as Explanation
from .explanation import Prospect, Reason
from .inputs import Elapsed
from .instance import Instance, Step
from .occurrence import unfold
from .pace import Pace, forecasts
from .queries import Brakes, Early
from .surroundings import Surroundings
from .words import Condition, Phase, StepState

_MOST_PROSPECTS = 4
_NOTED = (Condition.LATE, Condition.OUT_OF_ORDER, Condition.UNEXPECTED)
"""Conditions that tell of the past: nobody waits because of them."""


class Place(NamedTuple):
    """Where an event stood on the broker."""

    partition: TopicPartition
    offset: int


def explain(
    definition: Definition,
    instance: Instance,
    places: Mapping[str, Place],
    around: Surroundings,
    brakes: Brakes,
    now: int,
    queued: Sequence[str] = (),
    pace: Pace | None = None,
    alike: int = 0,
) -> Explanation:
    """Say why a saga is where it is.

    Args:
        definition, instance: of the saga.
        places: where the events of its history stood, by event id.
        around: what was seen beside the store.
        brakes: what holds all sagas back.
        now: the store's clock, microseconds.
        queued: what people asked of it and no coordinator has applied yet.
        pace: what is usual for its type.
        alike: how many other sagas of its type met the same error within an hour.
    """
    return _Why(definition, instance, places, around, brakes, now, pace or {}, alike).explanation(queued)


def explain_absent(name: str, early: Sequence[Early], around: Surroundings, now: int) -> Explanation:
    """Say why a saga is not there though events of its key are: they wait for the event that starts it.

    Args:
        name: what was asked for.
        early: the parked events of that key, the oldest first; at least one.
        around: what was seen beside the store.
        now: the store's clock, microseconds.
    """
    reasons = [
        Reason(
            "EarlyEventParked",
            f"{each.event_type} of its key came {_ago(each.at, now)} ago and is parked for {each.saga_type}, which "
            f"{' or '.join(each.start)} starts{_since(each, now)}; it expires in {_left(each.expires_at, now)}",
            None,
            each.at,
            (
                f"look whether {' or '.join(each.start)} was published under this key"
                + (f", and after {each.saga_type} was first run" if each.since else ""),
                f"saga start {each.saga_type} {each.field}={each.key}",
            ),
        )
        for each in early
    ]
    if around.trouble is not None:
        reasons.insert(0, _broker_down(around.trouble))
    elif around.members(around.coordinators) == 0:
        reasons.insert(0, _coordinator_down())
    prospects = (
        Prospect(early[0].expires_at, f"the parked {early[0].event_type} expires and is counted as unmatched"),
    )
    return Explanation(f"{name} has not begun", tuple(reasons), prospects)


def _since(early: Early, now: int) -> str:
    """Say that what is older starts nothing: without it nobody would guess why a published start is not seen."""
    return f" if it came after {early.saga_type} was first run, {_ago(early.since, now)} ago" if early.since else ""


class _Why:
    """One explanation being made."""

    def __init__(
        self,
        definition: Definition,
        instance: Instance,
        places: Mapping[str, Place],
        around: Surroundings,
        brakes: Brakes,
        now: int,
        pace: Pace,
        alike: int,
    ) -> None:
        self._definition = unfold(definition, instance)
        self._instance = instance
        self._places = places
        self._around = around
        self._brakes = brakes
        self._now = now
        self._usual = tuple(forecasts(instance, pace, now))
        self._alike = alike

    def explanation(self, queued: Sequence[str]) -> Explanation:
        instance = self._instance
        if instance.phase.ended:
            return Explanation(
                f"{instance.id} is {instance.phase} since {_ago(instance.ended_at, self._now)}",
                (*self._end(), *self._burst(), *self._slow()),
                usual=self._usual,
            )
        awaited = [(plan, step) for plan, step in self._steps() if step.open or step.state is StepState.COMPENSATING]
        waits = "; ".join(dict.fromkeys(_awaited(plan, step) for plan, step in awaited))
        paused = ", paused by a person," if instance.paused is not None else ""
        headline = f"{instance.id} is {instance.phase}{paused}" + (f" and waits for {waits}" if waits else "")
        reasons = [*self._general(queued), *self._noted()]
        for plan, step in awaited:
            reasons += self._of_step(plan, step, {(each.code, each.step) for each in reasons})
        serious = [each for each in reasons if each.code != "Working"]
        if not reasons:
            reasons = [Reason("Working", "nothing is wrong: nothing is due and nobody is late")]
        elif not serious:
            limit = min((step.limit_at for _, step in awaited if step.limit_at is not None), default=None)
            until = "" if limit is None else f", and its limit passes in {_left(limit, self._now)}"
            first = reasons[0]
            reasons[0] = first._replace(sentence=f"nothing is wrong: {first.sentence}{until}")
        working = [each for each in reasons if each.code == "Working"]
        return Explanation(
            headline, (*serious, *working, *self._burst(), *self._slow()), self._prospects(), self._usual
        )

    # ---- the saga as a whole -----------------------------------------------------------------------------------

    def _steps(self) -> Iterable[tuple[StepPlan, Step]]:
        return ((plan, self._instance.steps[plan.name]) for plan in self._definition.steps)

    def _end(self) -> tuple[Reason, ...]:
        instance = self._instance
        noted = [each for each in self._noted() if each.code == "UndoFailed"]
        if noted:
            return tuple(noted)
        cause = instance.cause
        if cause is None:
            return (Reason("Ended", f"every step is settled since {_ago(instance.ended_at, self._now)}"),)
        step = f"step {cause['step']} failed: " if cause.get("step") else ""
        message = f", {cause['message']}" if cause.get("message") else ""
        return (Reason("Ended", f"{step}{cause['error']}{message}", cause.get("step"), cause.get("at")),)

    def _general(self, queued: Sequence[str]) -> list[Reason]:
        around, instance, found = self._around, self._instance, []
        if around.trouble is not None:
            found.append(_broker_down(around.trouble))
        elif around.coordinators and around.members(around.coordinators) == 0:
            found.append(_coordinator_down())
        if instance.paused is not None:
            told = pause_report.sentence(instance, self._now)
            going = (f"saga resume {instance.id} --reason ...",)
            found.append(Reason("Paused", told, since=instance.paused.at, remedies=going))
        if queued:
            found.append(Reason("Queued", f"asked for and not applied yet: {', '.join(queued)}; a coordinator does it"))
        if self._is_unloaded():
            told = f"version {instance.version} of {instance.type} is loaded by no coordinator: its sagas are paused"
            fix = f"saga run MODULE:SAGA   (with the code of version {instance.version} of {instance.type})"
            found.append(Reason("NotLoaded", told, remedies=(fix, "saga upgrade MODULE:SAGA   (moves its sagas)")))
        resume = ("saga resume --reason ...",)
        if self._brakes.undo_stopped and instance.phase is Phase.COMPENSATING:
            found.append(Reason("UndoStopped", "all compensation is stopped (`saga stop`)", remedies=resume))
        due = instance.next_step_due
        if self._brakes.timers_held and due is not None and due <= self._now and instance.phase is Phase.RUNNING:
            told = "a limit has passed, but timers are held: too many sagas would time out at once"
            found.append(Reason("TimersHeld", told, since=due, remedies=resume))
        return found

    def _slow(self) -> list[Reason]:
        """Say what takes longer than it usually does; plain statistics, so never the first reason."""
        return [
            Reason("Slow", f"{each.name} is slow: {each}", each.stretch.step or None, each.slow_since)
            for each in self._usual
            if each.slow is not None
        ]

    def _burst(self) -> list[Reason]:
        """Say that this saga is not the only one: then the cause is not in this saga."""
        error = (self._instance.cause or {}).get("error")
        if not self._alike or error is None:
            return []
        others = "1 other saga" if self._alike == 1 else f"{self._alike:,} other sagas"
        told = f"{others} of type {self._instance.type} met the same error, {error}, within the last hour"
        return [Reason("Burst", told, remedies=(f"saga list --type {self._instance.type} --group-by error",))]

    def _noted(self) -> list[Reason]:
        """Tell what the saga itself has noted and what still holds it."""
        found = []
        for word, remark in self._instance.conditions.items():
            if word in _NOTED or word == Condition.HELD or (word == Condition.PAUSED and self._is_unloaded()):
                continue
            if word == Condition.DEAD_LETTERED and self._is_retried(remark.step):
                continue
            code = remark.reason if word == Condition.WAITING_FOR_PERSON else str(word)
            told = f"{remark.message} ({remark.reason})" if code != remark.reason else remark.message
            found.append(Reason(code, told, remark.step, remark.since, self._remedies(word, code, remark.step)))
        return found

    def _is_unloaded(self) -> bool:
        return (self._instance.type, self._instance.version) in self._brakes.unloaded

    def _is_retried(self, step: str | None) -> bool:
        """Whether the saga sends a step's command again by itself: then that stands there, not its dead letter."""
        return step in self._instance.steps and self._instance.steps[step].state is StepState.RETRYING

    def _remedies(self, word: str, code: str, step: str | None) -> tuple[str, ...]:
        id_, each = self._instance.id, f" --step {step}" if step else ""
        if code == "UndoFailed":
            return (f"saga retry-undo {id_}{each} --reason ...", f"saga mark-undone {id_}{each} --reason ...")
        if word == Condition.WAITING_FOR_LOCK and (lock := self._instance.lock) is not None and lock.holder:
            return (f"saga status {lock.holder}", "saga locks")
        if word == Condition.WAITING_TO_START:
            return (f"saga list --type {self._instance.type}   (it begins by itself when one of the open ones ends)",)
        if code == "Approval":
            return (f"saga approve {id_} {step} --reason ...", f"saga reject {id_} {step} --reason ...")
        if word == Condition.WAITING_FOR_PERSON and code in ("Late", "Duplicate", "Unexpected"):
            return (f"saga dismiss {id_} --reason ...", f"saga cancel {id_} --reason ...")
        if word == Condition.DEAD_LETTERED and step is not None:
            return (
                "mend the handler first",
                f"saga dlq retry --saga {id_} --reason ...",
                f"saga dlq list --saga {id_}",
            )
        if word == Condition.DELAYED:
            return ("mend the handler: it is tried again by itself, and is dead after its last retry topic",)
        if word == Condition.KEY_PARKED:
            return ("mend the handler: it is tried again by itself, and what waits behind it follows",)
        if word == Condition.WAITING_FOR_PERSON and code in ("PivotUnknown", "FailedAfterPivot"):
            again = f"mend it, then: saga retry {id_} --from {step} --reason ..."
            plan = self._definition.by_name.get(step or "")
            told = f"find out whether {step} happened; an answer that comes late still counts"
            return (told, again) if plan is not None and plan.send is not None else (told,)
        return ()

    # ---- one step ----------------------------------------------------------------------------------------------

    def _asked(self, name: str) -> list[tuple[ServiceAnnouncement, HandlerAnnouncement]]:
        plan = self._definition.by_name[name]
        step = self._instance.steps[name]
        if step.state is StepState.COMPENSATING and plan.undo is not None:
            return self._around.taking(plan.undo)
        return self._around.taking(plan.send) if plan.send is not None else self._around.answering(plan.done)

    def _of_step(self, plan: StepPlan, step: Step, known: set[tuple[str, str | None]]) -> list[Reason]:
        """Say who should answer a step, and why they have not."""
        around = self._around
        if around.trouble is not None or not around.topics or plan.approval is not None:
            return []
        undoing = step.state is StepState.COMPENSATING
        if plan.child is not None:
            what = "is being undone" if undoing else "has not ended"
            told = f"{plan.name} is a saga of its own, of type {plan.child}, which {what}"
            remedies = (f"saga status {self._instance.id}   (it names its children)",)
            return [Reason("ChildOpen", told, plan.name, step.undo_ready_at if undoing else step.ready_at, remedies)]
        command = plan.undo if undoing else plan.send
        answers = plan.undone if undoing else (*plan.done, *plan.failed)
        since = step.undo_ready_at if undoing else step.ready_at
        missing = self._missing(plan, (*answers, *([command] if command else ())), since)
        if missing:
            return missing
        handlers = self._asked(plan.name)
        if step.state is StepState.RETRYING:
            return [self._retrying(plan, step, [service.service for service, _ in handlers])]
        if any(step_ == plan.name and code != "Working" for code, step_ in known):
            return []  # the saga itself has noted why
        if not handlers:
            return [self._nobody(plan, command, since)]
        unread = self._unread_answers(plan, answers, since)
        found: dict[str, Reason] = {}
        for service, handler in handlers:
            where = self._input(plan, step, command, handler)
            reason = self._of_service(plan, service, handler, where, since, answers)
            found.setdefault(service.service, reason)
        silent = [reason for reason in found.values() if reason.code == "NoAnswer"]
        return [*unread, *(reason for reason in found.values() if not (unread and reason in silent))]

    def _retrying(self, plan: StepPlan, step: Step, services: Sequence[str]) -> Reason:
        pause = "" if step.send_at is None else f"; {plan.send} is sent again in {_left(step.send_at, self._now)}"
        told = f"{plan.name} failed {_count(len(step.failures), 'time')} so far, last with {step.error}{pause}"
        where = f" in service {' or '.join(dict.fromkeys(services))}" if services else ""
        fix = f"mend what fails{where}: {plan.send} is sent again by itself"
        return Reason("HandlerFailing", told, plan.name, step.failures[-1].at if step.failures else None, (fix,))

    def _missing(self, plan: StepPlan, types: Iterable[str], since: int) -> list[Reason]:
        topics = dict.fromkeys(self._definition.topics[type_] for type_ in types if type_ in self._definition.topics)
        return [
            Reason(
                "TopicMissing",
                f"topic {topic!r} does not exist, so nothing of {plan.name} can come or go",
                plan.name,
                since,
                ("saga topics apply MODULE",),
            )
            for topic in topics
            if topic not in self._around.topics
        ]

    def _nobody(self, plan: StepPlan, command: str | None, since: int) -> Reason:
        what = f"takes {command}" if command is not None else f"publishes {' or '.join(plan.done)}"
        told = f"no service has ever said that it {what}"
        return Reason("NobodyAnswers", told, plan.name, since, (f"saga run the service that {what}",))

    def _input(
        self, plan: StepPlan, step: Step, command: str | None, handler: HandlerAnnouncement
    ) -> tuple[TopicPartition, int | None] | None:
        """Say where the event stands that makes a service answer: its partition, and its offset where that is known."""
        if command is None:
            found = self._places.get(step.trigger or "")
            if found is not None and found.partition.topic in {taken.topic for taken in handler.consumes}:
                return found.partition, found.offset
            for event_id, place in self._places.items():
                if place.partition.topic in {taken.topic for taken in handler.consumes} and event_id != step.trigger:
                    return place.partition, place.offset
            return None
        partition = self._around.place_of(self._definition.topics[command], self._instance.key)
        return None if partition is None else (partition, None)

    def _of_service(
        self,
        plan: StepPlan,
        service: ServiceAnnouncement,
        handler: HandlerAnnouncement,
        where: tuple[TopicPartition, int | None] | None,
        since: int,
        answers: Sequence[str],
    ) -> Reason:
        around, name, group = self._around, service.service, service.group
        waiting = 0 if where is None else around.unread(group, where[0])
        if around.members(group) == 0:
            left = f", and {_count(waiting, 'event')} of {_at(where[0])} unread" if where and waiting else ""
            told = f"service {name} is down: its consumer group {group!r} has no members{left}"
            return Reason("ConsumerDown", told, plan.name, since, (f"start service {name}: saga run MODULE:{name}",))
        resting = around.resting(name, handler.name)
        if resting is not None and (where is None or waiting):
            return _resting(resting, plan, self._now)
        if where is not None and waiting:
            place, offset = where
            committed = around.groups[group].committed.get(place, 0)
            before = waiting - 1 if offset is None else max(0, offset - committed)
            if offset is not None and committed > offset:
                waiting = 0
            elif before:
                told = (
                    f"service {name} is behind: {_count(before, 'event')} of {_at(place)} come before this one, "
                    f"{_count(waiting, 'event')} in all are unread"
                )
                remedy = f"let it catch up, or run more of service {name}"
                return Reason("ConsumerLagging", told, plan.name, since, (remedy,))
            else:
                told = f"service {name} has it at hand: handler {handler.name} works on it or tries it again"
                return Reason("Working", f"{told}, for {_ago(since, self._now)} now", plan.name, since)
        late = _ago(since, self._now)
        told = f"service {name} has read it and has not said {' or '.join(answers)}, {late} after its turn"
        return Reason("NoAnswer", told, plan.name, since, (f"read what service {name} logs about this saga",))

    def _unread_answers(self, plan: StepPlan, answers: Sequence[str], since: int) -> list[Reason]:
        """Say that the answer may be there, unread by the coordinator."""
        around, found = self._around, []
        for topic in dict.fromkeys(self._definition.topics[type_] for type_ in answers):
            place = around.place_of(topic, self._instance.key)
            count = 0 if place is None else around.unread(around.coordinators, place)
            if place is not None and count and around.members(around.coordinators):
                left = f"{_count(count, 'event')} of {_at(place)}"
                told = f"the coordinator has {left} yet to read; the answer may be among them"
                found.append(Reason("CoordinatorLagging", told, plan.name, since, ("let it catch up",)))
        return found

    # ---- what comes by itself ----------------------------------------------------------------------------------

    def _prospects(self) -> tuple[Prospect, ...]:
        return tuple(islice(self._forecast(), _MOST_PROSPECTS))

    def _forecast(self) -> Iterable[Prospect]:
        """Play the saga's own timers forward until it changes its phase."""
        instance = self._instance
        while (due := instance.next_step_due) is not None:  # its trace turns for ever, and that is no news
            at = max(due, self._now)
            transition = advance(self._definition, instance, Elapsed(at), at)
            if transition.verdict == "ignored" or not transition.changes:
                return
            changes = [change for change in transition.changes if change.reason != TURNED]
            if changes:
                yield Prospect(due, ", ".join(_told(*change) for change in changes))
            if transition.instance.phase is not instance.phase:
                return
            instance = transition.instance


def _told(step: str | None, state: str, reason: str) -> str:
    why = f" ({reason})" if reason else ""
    return f"{step or 'the saga'} is {state}{why}"


def _awaited(plan: StepPlan, step: Step) -> str:
    if step.state is StepState.COMPENSATING:
        return f"the undo of {plan.name}: {' or '.join(plan.undone)}"
    answers = " or ".join((*plan.done, *plan.failed))
    return f"{plan.name}: {answers}" if answers else plan.name


def _broker_down(trouble: str) -> Reason:
    told = f"the broker is down: {trouble}; who should answer cannot be asked"
    return Reason("BrokerDown", told, remedies=("bring the broker back; nothing is lost meanwhile",))


def _coordinator_down() -> Reason:
    told = "no coordinator is running, so nothing moves"
    return Reason("CoordinatorDown", told, remedies=("saga run MODULE:SAGA",))


def _resting(breaker: BreakerAnnouncement, plan: StepPlan, now: int) -> Reason:
    error = f", the last with {breaker.error}" if breaker.error else ""
    again = f" in {_left(breaker.until, now)}" if breaker.until > now else ""
    told = (
        f"service {breaker.service} leaves its handler {breaker.handler} alone: its circuit breaker is open for "
        f"{_ago(breaker.since, now)}, since too many calls failed{error}; one is let through{again}, to see"
    )
    remedy = f"mend what handler {breaker.handler} of {breaker.service} calls: it goes on by itself"
    return Reason("BreakerOpen", told, plan.name, breaker.since, (remedy,))


def _at(place: TopicPartition) -> str:
    return f"{place.topic}/{place.partition}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _ago(at: int | None, now: int) -> str:
    return format_duration(max(0, now - (at or now)))


def _left(at: int, now: int) -> str:
    return format_duration(max(0, at - now))
