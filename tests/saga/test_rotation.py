"""A saga that runs for days has a trace for each of them, linked one to the next, and no span with two contents."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from choreo.events.clock import SECOND
from choreo.events.database import Database
from choreo.saga.advance import advance, begin
from choreo.saga.definition import Definition
from choreo.saga.durations import Slot, record
from choreo.saga.emission import Emission
from choreo.saga.inputs import Locked, Observed
from choreo.saga.instance import Instance
from choreo.saga.lock import LockPlan
from choreo.saga.stories import stories_of, story_of
from choreo.saga.tables import HEAD, metadata
from choreo.saga.work import Moved
from choreo.tracing.headers import saga_traceparent
from choreo.tracing.ids import trace_id
from choreo.tracing.sampling import Sampling
from choreo.tracing.spanfile import to_row
from choreo.tracing.spans import Tracing
from choreo.tracing.tree import build_tree
from tests.saga.play import LINE, Play, define, plan
from tests.saga.test_properties import happen, happenings
from tests.support.kept import Kept
from tests.support.otlp import outline

DAY = 86_400
LONG = define(
    plan("reserve", 0, within=90 * DAY * SECOND),
    plan("pay", 1, "reserve", within=90 * DAY * SECOND),
    plan("ship", 2, "pay", within=90 * DAY * SECOND),
)


class Recorded:
    """A saga that is played, and everything that a coordinator emits of it meanwhile."""

    def __init__(self, definition: Definition = LONG, rotation: float = DAY, *, sampled: bool = True) -> None:
        self.kept = Kept()
        resource = Resource({"service.name": "choreo-coordinator"})
        self.emission = Emission(Tracing(pipelines=[self.kept], resource=resource, sampling=Sampling()))
        self.play = Play(definition)
        self.play.instance.rotation = int(rotation * SECOND)
        self.play.instance.sampled = sampled
        self.emission.emit([Moved(definition, None, self.play.instance)])

    def moves(self, before: Instance) -> None:
        """Emit what has happened since."""
        self.emission.emit([Moved(self.play.definition, before, self.play.instance)])

    def sees(self, type_: str, **options: object) -> None:
        self.play.now += SECOND
        before = self.play.instance
        self.play.sees(type_, **options)
        self.moves(before)

    def later(self, seconds: float) -> None:
        before = self.play.instance
        self.play.later(seconds)
        self.moves(before)

    def days(self, number: int) -> None:
        """Let days pass; timers are looked at every hour."""
        for _ in range(24 * number):
            self.later(3_600)

    def outline(self, epoch: int) -> list[str]:
        wanted = f"{trace_id('', self.play.instance.id, epoch):032x}"
        rows = [row for span in self.kept.spans if (row := to_row(span)) is not None]
        return outline(build_tree(row for row in rows if row.trace_id == wanted))


def contents(spans: Iterable[ReadableSpan]) -> dict[tuple[int, int], str]:
    """Every span by its ids; two contents of one are an error."""
    found: dict[tuple[int, int], str] = {}
    for span in spans:
        context = span.get_span_context()
        assert context is not None
        text = span.to_json()
        assert found.setdefault((context.trace_id, context.span_id), text) == text
    return found


def test_each_day_has_a_trace_of_its_own_that_is_linked_to_the_one_before() -> None:
    saga = Recorded()
    saga.days(1)
    saga.sees("reserve.done")
    saga.days(2)
    saga.sees("pay.done")
    saga.sees("ship.done")
    assert saga.play.phase == "COMPLETED"
    assert saga.play.instance.epoch == 3
    service = "[choreo-coordinator]"
    assert [saga.outline(epoch) for epoch in range(5)] == [
        [f"saga order {service}", f"  saga order started {service}", f"  step reserve {service}"],
        [
            f"saga order {service} -> previous",
            f"  saga order started {service} -> previous",
            f"  step reserve {service}",
            f"  step pay {service}",
        ],
        [
            f"saga order {service} -> previous",
            f"  saga order started {service} -> previous",
            f"  step pay {service}",
        ],
        [
            f"saga order {service} -> previous",
            f"  saga order started {service} -> previous",
            f"  step pay {service}",
            f"  step ship {service}",
        ],
        [],
    ]
    contents(saga.kept.spans)
    roots = [span for span in saga.kept.spans if span.name == "saga order"]
    assert [(span.attributes or {})["saga.status"] for span in roots] == ["running"] * 3 + ["completed"]
    assert [(span.attributes or {})["saga.epoch"] for span in roots] == [0, 1, 2, 3]
    for span in saga.kept.spans:
        assert span.start_time is not None
        assert span.end_time is not None
        assert 0 <= span.end_time - span.start_time <= 25 * 3_600 * 10**9, "no span is longer than its epoch"


def test_what_has_no_end_yet_says_so_in_the_epoch_that_is_over() -> None:
    saga = Recorded()
    saga.days(1)
    (step,) = [span for span in saga.kept.spans if span.name == "step reserve"]
    assert (step.attributes or {})["saga.step.outcome"] == "open"


def test_what_is_sent_carries_the_trace_of_its_day() -> None:
    """Which is why an attempt of a handler has its step in that trace, however long the saga runs."""
    instance = Recorded().play.instance
    later = replace(instance, epoch=2, turned=[instance.opened_at + 1, instance.opened_at + 2])
    assert saga_traceparent("", instance.id, later.epoch, True).split("-")[1] == f"{trace_id('', instance.id, 2):032x}"


def test_a_step_whose_trigger_carries_an_earlier_trace_stands_in_that_one_too() -> None:
    """A choreographed service knows the trace of the event that it handles, and no other."""
    saga = Recorded()
    saga.days(2)
    old = f"00-{trace_id('', 'order/4711'):032x}-00000000000000aa-01"
    saga.sees("reserve.done", traceparent=old)
    saga.sees("pay.done", traceparent=old)
    assert "  step pay [choreo-coordinator] -> trigger" in saga.outline(0)
    assert "step pay [choreo-coordinator] orphan -> trigger" in saga.outline(2), "that epoch has no root yet"
    assert not any("step pay" in line for line in saga.outline(1))
    contents(saga.kept.spans)


def test_an_unsampled_saga_that_fails_on_the_third_day_is_shown_from_the_first() -> None:
    saga = Recorded(sampled=False)
    saga.days(2)
    assert saga.kept.spans == []
    saga.sees("reserve.failed")
    assert saga.play.phase == "COMPENSATED"
    assert [len(saga.outline(epoch)) for epoch in range(3)] == [3, 3, 3]
    assert saga.outline(2)[0] == "saga order [choreo-coordinator] ERROR -> previous"


def test_a_saga_without_a_rotation_has_one_trace_for_ever() -> None:
    play = Play(LONG)
    play.later(60 * DAY)
    assert play.instance.epoch == 0


def test_a_rotation_is_in_the_history_and_changes_nothing_else() -> None:
    event = Observed("e-start", "placed", time=SECOND)
    instance = begin(LINE, "4711", 1, event, SECOND, rotation=10 * SECOND).instance
    assert (instance.next_due, instance.next_step_due) == (11 * SECOND, 31 * SECOND)
    play = Play(LINE)
    play.instance.rotation = 10 * SECOND
    before = play.instance
    play.later(10)
    assert [change.reason for change in play.last.changes] == ["its trace goes on in another one"]
    assert play.last.outputs == []
    assert replace(play.instance, seq=1, epoch=0, turned=[]) == before


def test_the_time_in_the_queue_of_a_lock_is_a_wait() -> None:
    locked = dataclasses.replace(LINE, lock=LockPlan("customer", "customers"))
    play = Play(locked)
    event = Observed("e-start", "placed", time=play.now, lock="c-1")
    play._took(begin(locked, "4711", 1, event, play.now))
    play._took(advance(locked, play.instance, Locked(granted=False, holder="order/1"), play.now))
    play.now += 40 * SECOND
    play._took(advance(locked, play.instance, Locked(granted=True), play.now))
    (wait,) = story_of(locked, play.instance, "").steps
    assert (wait.name, wait.kind, wait.outcome) == ("lock", "wait", "done")
    assert (wait.trigger_at, wait.ended_at) == (play.now - 40 * SECOND, play.now)


@settings(max_examples=200, deadline=None)
@given(happenings(), st.sampled_from([3.0, 10.0, 45.0, 300.0]), st.booleans())
def test_no_span_is_emitted_twice_with_changes_however_often_its_trace_turns(
    given_: tuple[Definition, Sequence[tuple[str, str, float]]], rotation: float, forgets: bool
) -> None:
    definition, happening = given_
    saga = Recorded(definition, rotation)
    for number, each in enumerate(happening):
        saga.play.now += 1  # two transactions never share their time
        before = saga.play.instance
        happen(saga.play, *each)
        saga.moves(before)
        if forgets and number % 3 == 2:  # the process died, and another one emits what is left
            saga.emission = Emission(saga.emission._tracing)
    emitted = contents(saga.kept.spans)
    instance = saga.play.instance
    if instance.phase.ended:
        again = Kept()
        whole = Emission(Tracing(pipelines=[again], resource=saga.emission._tracing.resource))
        whole._emit_again([(definition, instance)])
        told = contents(again.spans)
        assert {key: emitted.get(key) for key in told} == told, "from the store alone: the same"
        for story in stories_of(definition, instance, ""):
            assert sum(span.name == "saga order" for span in again.spans) == len(instance.turned) + 1
            assert len({step.identity for step in story.steps}) == len(story.steps)


async def test_an_unsampled_saga_that_took_longer_than_99_of_100_is_shown(tmp_path: Path) -> None:
    """What is usual is what the coordinators have written down; `Slow` judges by the same."""
    database = await Database.open(f"sqlite:{tmp_path / 'saga.db'}")
    try:
        await database.ensure_schema("saga", metadata, HEAD)
        slot = Slot("order", "saga", "", 0)
        await database.write(lambda c: record(c, {slot: [n * SECOND for n in range(1, 301)]}))
        kept = Kept()
        emission = Emission(Tracing(pipelines=[kept], resource=Resource({"service.name": "choreo-coordinator"})))
        await emission.learn(database)
        for seconds, spans in ((200, 0), (299, 5)):
            play = Play(LINE)
            play.instance.sampled = False
            for step in LINE.steps:
                before = play.instance
                play.now = before.started_at + seconds * SECOND
                play.sees(f"{step.name}.done")
                emission.emit([Moved(LINE, before, play.instance)])
            assert play.phase == "COMPLETED"
            assert len(kept.spans) == spans
    finally:
        await database.close()


def test_an_approval_is_a_wait_as_long_as_somebody_took_for_it() -> None:
    asking = define(
        plan("reserve", 0),
        plan("agree", 1, "reserve", approval="sales", undo=None, undone=(), within=90 * DAY * SECOND),
    )
    saga = Recorded(asking, rotation=10 * DAY)
    saga.sees("reserve.done")
    asked = saga.play.now
    saga.play.now += 3_600 * SECOND
    assert "wait" not in str(saga.outline(0)), "nothing is open while it lasts"
    before = saga.play.instance
    saga.play.person("approve")
    saga.moves(before)
    (wait,) = [span for span in saga.kept.spans if span.name == "wait agree"]
    assert wait.start_time is not None
    assert wait.attributes is not None
    assert 0 < wait.start_time - asked * 1_000 < 10_000, "later steps of one moment stand behind earlier ones"
    assert wait.end_time == saga.play.now * 1_000
    assert (wait.attributes["saga.step.kind"], wait.attributes["saga.step.outcome"]) == ("wait", "done")
    assert "  wait agree [choreo-coordinator]" in saga.outline(0)


def test_a_saga_that_was_late_is_shown_although_it_was_not_sampled() -> None:
    """It went well in the end, and passed a limit of its own on the way."""
    optional = define(plan("reserve", 0), plan("notify", 1, "reserve", optional=True, undo=None, undone=()))
    for late in (False, True):
        saga = Recorded(optional, sampled=False)
        saga.sees("reserve.done")
        if late:
            saga.later(31)  # nobody was notified within 30 s
        else:
            saga.sees("notify.done")
        assert saga.play.phase == "COMPLETED"
        assert ("Late" in saga.play.instance.conditions) == late
        assert bool(saga.kept.spans) == late
    assert saga.outline(0)[0].startswith("saga order [choreo-coordinator]")
    assert any(line.startswith("  step notify") for line in saga.outline(0))


def test_a_promise_that_was_not_kept_shows_the_saga_too() -> None:
    promised = define(plan("ship", 0, due="ship_by", within=90 * DAY * SECOND))
    saga = Recorded(promised, sampled=False)
    before = saga.play.instance
    saga.play.decided("ship", saga.play.now + 60 * SECOND, "due")
    saga.moves(before)
    saga.later(61)
    saga.sees("ship.done")
    assert (saga.play.phase, list(saga.play.instance.conditions)) == ("COMPLETED", ["Late"])
    assert [line.split(" [")[0].strip() for line in saga.outline(0)] == [
        "saga order",
        "saga order started",
        "step ship",
    ]
