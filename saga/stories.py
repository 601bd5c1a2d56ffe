"""Tell an instance's state as the story that its spans are made of."""

from __future__ import annotations

from dataclasses import replace

from ..events.clock import SECOND
from ..tracing.saga_spans import SagaStory, StepStory
from .definition import Definition, StepPlan
from .instance import Instance, Step
from .occurrence import MOST_TRACED, base_of, element_of, members, unfold, wire_of
from .words import StepState

_PLAUSIBLE = 3_600 * SECOND
_FINAL_FAILURES = frozenset((StepState.FAILED, StepState.UNKNOWN, StepState.UNDO_FAILED, StepState.DEGRADED))


def story_of(definition: Definition, instance: Instance, namespace: str) -> SagaStory:
    """Tell the present epoch of an instance: the same state always gives the same story."""
    failed = (instance.cause or {}).get("step")
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
        failed_step=failed,
        origin=instance.origin,
        sampled=instance.sampled,
        steps=tuple(step_stories(definition, instance)),
    )


def _started_at(instance: Instance) -> int:
    """The start event's own time, unless it is from the past (backfill) or from a clock that is ahead of ours."""
    waited = instance.opened_at - instance.started_time
    return instance.started_time if not instance.epoch and 0 <= waited < _PLAUSIBLE else instance.opened_at


def step_stories(definition: Definition, instance: Instance) -> list[StepStory]:
    """Tell every action and compensation of the present epoch that has ended."""
    told = []
    counts: dict[str, int] = {}
    for plan in unfold(definition, instance).steps:
        step = instance.steps[plan.name]
        base = base_of(plan.name)
        number = counts[base] = counts.get(base, -1) + 1
        stories = []
        if step.ended_at is not None and step.ended_at >= instance.opened_at:
            stories.append(_action(plan, step))
        if _is_undone_for_good(plan, instance, step) and step.undo_ready_at >= instance.opened_at:
            stories.append(_compensation(plan, step, 2 * len(definition.steps) - plan.index))
        if plan.each is not None:
            stories = [replace(story, elements=len(members(instance, base))) for story in stories]
        elif plan.name != base:  # its group comes first and has number 0
            stories = [_of_element(story, plan.name, number) for story in stories]
            if number > MOST_TRACED:
                stories = [story for story in stories if story.final_failure]
        told += stories
    return told


def _of_element(story: StepStory, name: str, number: int) -> StepStory:
    """Tell it of one element: those that begin together are drawn in their order."""
    step, occurrence = wire_of(name)
    return replace(
        story, name=step, occurrence=occurrence, element=element_of(name), trigger_at=story.trigger_at + number
    )


def _is_undone_for_good(plan: StepPlan, instance: Instance, step: Step) -> bool:
    """Whether its undo cannot begin again in this epoch: until the end a failed one may, and an empty one."""
    final = step.undo_outcome is StepState.COMPENSATED and (step.done is not None or plan.only_undo)
    return step.undo_ended_at is not None and (final or instance.phase.ended)


def newly_told(definition: Definition, before: Instance | None, after: Instance) -> list[StepStory]:
    """Tell what ended between two states of an instance."""
    if before is None:
        return step_stories(definition, after)
    known = (
        {(story.name, story.occurrence, story.kind) for story in step_stories(definition, before)}
        if before.epoch == after.epoch
        else set()
    )
    return [
        story for story in step_stories(definition, after) if (story.name, story.occurrence, story.kind) not in known
    ]


def _action(plan: StepPlan, step: Step) -> StepStory:
    outcome = step.outcome or step.state
    ended_at = step.ended_at or step.ready_at
    ready_at = step.ready_at or ended_at  # it ended before its turn
    failures = tuple((failure.at, failure.error) for failure in step.failures if failure.at <= ended_at)
    return StepStory(
        name=plan.name,
        index=plan.index + 1,
        kind="action",
        trigger_at=ready_at,
        ended_at=ended_at,
        outcome=outcome.value,
        trigger=step.trace,
        attempts=max(1, step.attempt, len(failures)),
        failed_attempts=failures,
        final_failure=outcome in _FINAL_FAILURES,
    )


def _compensation(plan: StepPlan, step: Step, index: int) -> StepStory:
    outcome = step.undo_outcome or StepState.COMPENSATED
    return StepStory(
        name=plan.name,
        index=index,  # behind every action, the last step first
        kind="compensation",
        trigger_at=step.undo_ready_at,
        ended_at=step.undo_ended_at or step.undo_ready_at,
        outcome=outcome.value,
        trigger=step.undo_trace,
        attempts=max(1, step.undo_attempt),
        failed_attempts=tuple((failure.at, failure.error) for failure in step.undo_failures),
        final_failure=outcome in _FINAL_FAILURES,
    )
