"""Tell an instance's state as the stories that its spans are made of: one for each epoch of its trace."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from ..events.clock import SECOND
from ..tracing.headers import parse_traceparent
from ..tracing.ids import trace_id
from ..tracing.saga_spans import LOCK, OPEN, SagaStory, StepStory
from ..tracing.sampling import is_failure
from .definition import Definition, StepPlan
from .instance import Instance, Step
from .occurrence import MOST_TRACED, base_of, element_of, members, unfold, wire_of
from .words import Condition, StepState

_PLAUSIBLE = 3_600 * SECOND
_FINAL_FAILURES = frozenset((StepState.FAILED, StepState.UNKNOWN, StepState.UNDO_FAILED, StepState.DEGRADED))
_SLOW = (Condition.SLOW, Condition.LATE)


class _Told(NamedTuple):
    """One step or undo, as a whole.

    Args:
        story: of it; what has not ended ends nowhere yet.
        ended: its end is told; False: it is awaited.
        fixed: its end stays what it is whatever becomes of the saga.
    """

    story: StepStory
    ended: bool
    fixed: bool


def is_slow(instance: Instance, limit: int | None = None) -> bool:
    """Tell whether a saga that has ended took longer than it should, so that its trace is shown in any case.

    Args:
        instance: the saga.
        limit: from how long on it is slow, microseconds; None: only its own limits count.
    """
    if any(word in instance.conditions for word in _SLOW):
        return True
    return limit is not None and instance.ended_at is not None and instance.ended_at - instance.started_at >= limit


def story_of(definition: Definition, instance: Instance, namespace: str, slow: int | None = None) -> SagaStory:
    """Tell the present epoch of an instance: the same state always gives the same story."""
    return stories_of(definition, instance, namespace, slow)[-1]


def stories_of(
    definition: Definition, instance: Instance, namespace: str, slow: int | None = None
) -> tuple[SagaStory, ...]:
    """Tell every epoch since an instance was started or opened again, the present one last.

    A step that lasts from one epoch into the next has a part in each of them. What is told of an epoch that is over
    stays as it is; only a step that begins later may join it, where the event that triggers it carries its trace.

    Args:
        definition, instance: the saga.
        namespace: of the deployment.
        slow: from how long on it is slow, microseconds.
    """
    told = _everything(definition, instance)
    if not instance.turned:
        return (saga_story(instance, namespace, slow, tuple(each.story for each in told if each.ended)),)
    whole = saga_story(instance, namespace, slow)
    first = instance.opened_in
    traces = [trace_id(namespace, instance.id, first + number) for number in range(len(instance.turned))]
    parts: list[list[StepStory]] = [[] for _ in range(len(instance.turned) + 1)]
    for each in told:
        for number, part in _parts(each, instance.turned, traces):
            parts[number].append(part)
    begins = [whole.started_at, *instance.turned]
    over = [
        replace(
            whole,
            started_at=begin,
            status="running",
            epoch=first + number,
            ended_at=end,
            failed_step=None,
            steps=tuple(parts[number]),
        )
        for number, (begin, end) in enumerate(zip(begins, instance.turned, strict=False))
    ]
    return (*over, replace(whole, started_at=begins[-1], steps=tuple(parts[-1])))


def saga_story(
    instance: Instance, namespace: str, slow: int | None = None, steps: tuple[StepStory, ...] = ()
) -> SagaStory:
    """Tell the present epoch of an instance, as if its trace had never gone on in another one.

    Args:
        instance: the saga.
        namespace: of the deployment.
        slow: from how long on it is slow, microseconds.
        steps: of it.
    """
    ended = instance.phase.ended
    return SagaStory(
        saga_id=instance.id,
        type=instance.type,
        version=instance.version,
        namespace=namespace,
        started_at=_started_at(instance),
        status=instance.phase.value.lower(),
        run=instance.run,
        epoch=instance.epoch,
        ended_at=instance.ended_at,
        failed_step=(instance.cause or {}).get("step"),
        origin=instance.origin,
        sampled=instance.sampled,
        always=ended and (is_failure(instance.phase.value) or is_slow(instance, slow)),
        steps=steps,
    )


def _parts(told: _Told, turned: list[int], traces: list[int]) -> Iterator[tuple[int, StepStory]]:
    """Divide a step among the epochs; what ends with an epoch belongs to it."""
    story, last = told.story, len(turned)
    begins = bisect_left(turned, story.trigger_at + 1)  # what begins with an epoch belongs to it
    ends = max(begins, bisect_left(turned, story.ended_at)) if told.ended and told.fixed else last
    for number in range(begins, ends + 1):
        after = turned[number - 1] if number > begins else 0
        failed = [each for each in story.failed_attempts if each[0] > after or number == begins]
        before = len(story.failed_attempts) - len(failed)
        part = replace(story, trigger_at=max(story.trigger_at, after), failed_before=before)
        if number < ends:
            failed = [each for each in failed if each[0] <= turned[number]]
            yield (
                number,
                replace(
                    part,
                    ended_at=turned[number],
                    outcome=OPEN,
                    attempts=before + len(failed) + 1,
                    failed_attempts=tuple(failed),
                    final_failure=False,
                ),
            )
        elif told.ended:
            yield number, replace(part, ended_at=max(part.trigger_at, story.ended_at), failed_attempts=tuple(failed))
    # Whoever handles the trigger of it knows only the trace that this one carries.
    context = parse_traceparent(story.trigger) if told.ended and begins else None
    if context is not None and context.trace_id in traces[:begins]:
        yield traces.index(context.trace_id), story


def _started_at(instance: Instance) -> int:
    """The start event's own time, unless it is from the past (backfill) or from a clock that is ahead of ours."""
    waited = instance.opened_at - instance.started_time
    return instance.started_time if not instance.opened_in and 0 <= waited < _PLAUSIBLE else instance.opened_at


def step_stories(definition: Definition, instance: Instance) -> list[StepStory]:
    """Tell every action, compensation and wait that has ended since the saga was opened, each as a whole."""
    return [each.story for each in _everything(definition, instance) if each.ended]


def _everything(definition: Definition, instance: Instance, other: Instance | None = None) -> list[_Told]:
    """Tell every action, compensation and wait of the present opening; what is open only where epochs divide it.

    Args:
        definition, instance: the saga.
        other: another state of it; steps that are the same in both are left out.
    """
    told: list[_Told] = []
    counts: dict[str, int] = {}
    if (wait := _lock_wait(instance)) is not None:
        told.append(wait)
    for plan in unfold(definition, instance).steps:
        step = instance.steps[plan.name]
        base = base_of(plan.name)
        number = counts[base] = counts.get(base, -1) + 1
        if other is not None and other.steps.get(plan.name) == step:
            continue
        stories = [*_action(plan, instance, step), *_compensation(definition, plan, instance, step)]
        if plan.each is not None:
            elements = len(members(instance, base))
            stories = [each._replace(story=replace(each.story, elements=elements)) for each in stories]
        elif plan.name != base:  # its group comes first and has number 0
            stories = [each._replace(story=_of_element(each.story, plan.name, number)) for each in stories]
            if number > MOST_TRACED:
                stories = [each for each in stories if each.story.final_failure]
        told += stories
    return told


def _of_element(story: StepStory, name: str, number: int) -> StepStory:
    """Tell it of one element: those that begin together are drawn in their order."""
    step, occurrence = wire_of(name)
    return replace(
        story, name=step, occurrence=occurrence, element=element_of(name), trigger_at=story.trigger_at + number
    )


def _lock_wait(instance: Instance) -> _Told | None:
    """Tell of the time in the queue of the saga's lock: nobody could explain that gap otherwise."""
    lock, began = instance.lock, instance.started_at
    if lock is None or began < instance.opened_at:
        return None
    ended = lock.since if lock.taken_at is None and lock.state != "waiting" else lock.taken_at
    if ended == began or (ended is None and not instance.turned):
        return None
    outcome = OPEN if ended is None else "done" if lock.taken_at is not None else lock.state
    story = StepStory(LOCK, 0, "wait", began, began if ended is None else ended, outcome)
    return _Told(story, ended is not None, True)


def newly_told(definition: Definition, before: Instance | None, after: Instance) -> list[StepStory]:
    """Tell what has ended between two states of an instance in the same epoch.

    Args:
        definition: of both.
        before: the earlier one; None: it was opened since.
        after: the later one.
    """
    if before is None:
        return step_stories(definition, after)
    # With the saga undos end that could have begun again, whether their step has changed or not.
    alike = before.phase.ended is after.phase.ended
    earlier = _everything(definition, before, after if alike else None)
    known = {each.story.identity for each in earlier if each.ended}
    later = _everything(definition, after, before if alike else None)
    return [each.story for each in later if each.ended and each.story.identity not in known]


def _action(plan: StepPlan, instance: Instance, step: Step) -> Iterator[_Told]:
    ended_at = step.ended_at
    if ended_at is None:
        if not instance.turned or not step.ready_at or not step.open:
            return
    elif ended_at < instance.opened_at:
        return
    outcome = step.outcome or step.state
    ready_at = step.ready_at or ended_at or 0  # it ended before its turn
    failures = tuple(
        (failure.at, failure.error) for failure in step.failures if ended_at is None or failure.at <= ended_at
    )
    story = StepStory(
        name=plan.name,
        index=plan.index + 1,
        kind="wait" if plan.approval is not None else "action",
        trigger_at=ready_at,
        ended_at=ready_at if ended_at is None else ended_at,
        outcome=outcome.value,
        trigger=step.trace,
        attempts=max(1, step.attempt, len(failures)),
        failed_attempts=failures,
        final_failure=outcome in _FINAL_FAILURES,
    )
    yield _Told(story, ended_at is not None, True)


def _compensation(definition: Definition, plan: StepPlan, instance: Instance, step: Step) -> Iterator[_Told]:
    if not step.undo_ready_at or step.undo_ready_at < instance.opened_at:
        return
    # Until the end a failed undo may begin again in this epoch, and an empty one too.
    fixed = step.undo_outcome is StepState.COMPENSATED and (step.done is not None or plan.only_undo)
    ended = step.undo_ended_at is not None and (fixed or instance.phase.ended)
    if not ended and not instance.turned:
        return
    outcome = step.undo_outcome or StepState.COMPENSATED
    story = StepStory(
        name=plan.name,
        index=2 * len(definition.steps) - plan.index,  # behind every action, the last step first
        kind="compensation",
        trigger_at=step.undo_ready_at,
        ended_at=step.undo_ended_at or step.undo_ready_at,
        outcome=outcome.value,
        trigger=step.undo_trace,
        attempts=max(1, step.undo_attempt),
        failed_attempts=tuple((failure.at, failure.error) for failure in step.undo_failures),
        final_failure=outcome in _FINAL_FAILURES,
    )
    yield _Told(story, ended, fixed)
