"""A saga's story for the tests: five steps, one retried, one failed for good, two compensated, one timed wait."""

from __future__ import annotations

from opentelemetry.trace import SpanContext

from choreo.tracing.headers import SAMPLED, UNSAMPLED, format_traceparent
from choreo.tracing.saga_spans import SagaStory, StepStory

BEGIN = 1_795_000_000_000_000
SECOND = 1_000_000
ORIGIN = SpanContext(0xAA, 0xA1, True, SAMPLED)


def message(number: int, *, sampled: bool = True) -> str:
    """A traceparent of a message within some trace."""
    return format_traceparent(SpanContext(0xBB, number, True, SAMPLED if sampled else UNSAMPLED))


def at(seconds: float) -> int:
    return BEGIN + round(seconds * SECOND)


STEPS = (
    StepStory("reserve", 1, "action", at(0), at(0.4), "DONE", trigger=format_traceparent(ORIGIN)),
    StepStory("screen", 2, "action", at(0), at(0.4), "DONE", trigger=format_traceparent(ORIGIN)),
    StepStory(
        "charge",
        3,
        "action",
        at(0.4),
        at(3.4),
        "DONE",
        trigger=message(1),
        attempts=3,
        failed_attempts=((at(1.0), "GatewayTimeout"), (at(2.0), "GatewayTimeout")),
    ),
    StepStory("cool-off", 4, "wait", at(3.4), at(5.4), "DONE", trigger=message(2)),
    StepStory(
        "ship",
        5,
        "action",
        at(5.4),
        at(6.4),
        "FAILED",
        trigger=message(3),
        failed_attempts=((at(6.4), "NoCourier"),),
        final_failure=True,
    ),
    StepStory("charge", 3, "compensation", at(6.4), at(7.0), "COMPENSATED", trigger=message(4)),
    StepStory("reserve", 1, "compensation", at(7.0), at(7.2), "COMPENSATED", trigger=message(5)),
)

COMPENSATED = SagaStory(
    "fulfilment/4711",
    "fulfilment",
    3,
    "shop",
    at(0),
    "COMPENSATED",
    ended_at=at(7.2),
    failed_step="ship",
    origin=format_traceparent(ORIGIN),
    steps=STEPS,
)
