"""What tracing costs a service per event (one attempt of a handler and one output): `python -m tests.support.cost`.

CPU time of this thread, the best of several rounds that alternate, so that the figures of one run compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, Tracer, set_span_in_context

from choreo.events.envelope import Delivery, Envelope
from choreo.tracing.headers import UnsampledSpan, saga_traceparent
from choreo.tracing.place import Place
from choreo.tracing.spans import Tracing

from .kept import Kept

BUDGET = 5.0
"""Microseconds that tracing may add to an event of an unsampled saga."""

ROUNDS = 9
CALLS = 4_000
SAGA = "fulfilment/4711"
_PLACE = Place("", SAGA, "fulfilment", "reserve", "step")
_DELIVERY = Delivery("orders", 0, 5, 1_700_000_000_000, b"4711", b"", ())


def tracer() -> Tracer:
    """Give a tracer as `open_tracing` makes it, without exporters."""
    return TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.01)), shutdown_on_exit=False).get_tracer("bench")


def event(tracing: Tracing | None, *, sampled: bool) -> Callable[[], None]:
    """Give what a service does for one event; without `tracing` only what it would do without any."""
    header = saga_traceparent("", SAGA, 0, sampled)
    got = Envelope("e-1", "OrderPlaced", "shop", 0, "4711", saga_id=SAGA, saga_traceparent=header, traceparent=header)

    def plain() -> None:
        Envelope("e-2", "StockReserved", "inventory", 0, "4711")

    def traced() -> None:
        assert tracing is not None
        with tracing.process(_DELIVERY, got, group="inventory", place=_PLACE) as run:
            pass
        sent = run.send("inventory", "e-2")
        Envelope("e-2", "StockReserved", "inventory", 0, "4711", traceparent=sent.traceparent)
        sent.end()

    return plain if tracing is None else traced


def stock() -> Callable[[], None]:
    """Give what the SDK does by itself under an unsampled parent: one span that is current for a moment."""
    made = tracer()
    parent = set_span_in_context(
        NonRecordingSpan(UnsampledSpan(saga_traceparent("", SAGA, 0, False)).get_span_context())
    )

    def run() -> None:
        with made.start_as_current_span("process orders", parent):
            pass

    return run


def measure(cases: dict[str, Callable[[], None]], rounds: int = ROUNDS, calls: int = CALLS) -> dict[str, float]:
    """Measure the CPU microseconds of one call of each."""
    best = dict.fromkeys(cases, float("inf"))
    for number in range(rounds):
        names = list(cases) if number % 2 else list(cases)[::-1]
        for name in names:
            run = cases[name]
            began = time.thread_time_ns()
            for _ in range(calls):
                run()
            best[name] = min(best[name], (time.thread_time_ns() - began) / calls / 1_000)
    return best


def cases() -> dict[str, Callable[[], None]]:
    """Give everything that is compared."""
    on = Tracing(tracer=tracer())
    return {
        "no tracing at all": event(None, sampled=False),
        "tracing off": event(Tracing(), sampled=True),
        "unsampled": event(on, sampled=False),
        "sampled, without export": event(on, sampled=True),
        "one unsampled span of the SDK": stock(),
    }


def build() -> Callable[[], None]:
    """Give what the coordinator does for one step that has ended: build its span."""
    from opentelemetry.sdk.resources import Resource

    from choreo.tracing.saga_spans import SagaStory, StepStory, step_spans

    story, resource = SagaStory(SAGA, "fulfilment", 1, "", 0), Resource.get_empty()
    step = StepStory("reserve", 1, "action", 0, 1_000, "DONE", trigger=saga_traceparent("", SAGA, 0, True))
    made: list[list[ReadableSpan]] = [[]]

    def run() -> None:
        made[0] = step_spans(story, step, resource)

    return run


def told(*, sampled: bool, turned: bool = False) -> Callable[[], None]:
    """Give what the coordinator does with one event that ends a step of three: find out what is new, tell it.

    Args:
        sampled: whether the saga is.
        turned: whether its trace has gone on in another one.
    """
    from choreo.saga.emission import Emission
    from choreo.saga.work import Moved
    from tests.saga.play import LINE, Play

    play = Play(LINE)
    before = play.instance.copy()
    play.sees("reserve.done")
    after = play.instance.copy()
    before.sampled = after.sampled = sampled
    if turned:
        before.turned = after.turned = [before.opened_at]
    kept = Kept()
    emission = Emission(Tracing(pipelines=[kept]))
    moves = [Moved(play.definition, before, after)]
    emission.emit(moves)
    assert bool(kept.spans) is sampled

    def run() -> None:
        kept.spans.clear()
        emission.emit(moves)

    return run


if __name__ == "__main__":
    found = measure(
        {
            **cases(),
            "a step's span of the coordinator": build(),
            "an event of the coordinator, sampled": told(sampled=True),
            "… not sampled": told(sampled=False),
        }
    )
    base = found["no tracing at all"]
    for name, each in found.items():
        print(f"| {name} | {each:.1f} | {each - base:+.1f} |")
