"""One span of no meaning, sent as all others are and looked for where they should come out: does tracing work?"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from ..events.clock import SECOND, system_clock
from ..events.errors import ChoreoError, ConfigurationError
from .export import endpoint, export_again
from .jaeger import fetch_spans

SERVICE = "choreo.doctor"
NAME = "saga doctor"

_EXPORT = 5.0
"""Seconds that the endpoint has to take it."""

_LOOK = 0.1


@dataclass(frozen=True, slots=True)
class Probed:
    """What became of a probe span.

    Args:
        endpoint: where it was sent to.
        trouble: why it was not taken there; None: it was.
        jaeger: where it was looked for; "" where no Jaeger is named.
        found_after: how long after it was sent Jaeger showed it, microseconds; None: it did not, or nobody looked.
        missed: why it was not found; None where it was, or nobody looked.
    """

    endpoint: str
    trouble: str | None = None
    jaeger: str = ""
    found_after: int | None = None
    missed: str | None = None


def probe(jaeger: str, patience: float) -> Probed:
    """Send a span to the OTLP endpoint that the environment names, and look for it in Jaeger.

    Blocks, so never call it on an event loop.

    Args:
        jaeger: base URL of its page; "": nobody looks.
        patience: seconds that the span may take to show there.

    Raises:
        ConfigurationError: no endpoint is named, or an `OTEL_*` variable cannot be used.
    """
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, TraceFlags

    numbers = random.SystemRandom()
    trace, span = numbers.getrandbits(128) or 1, numbers.getrandbits(64) or 1
    at = system_clock() * 1_000
    context = SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    made = ReadableSpan(NAME, context, resource=Resource({"service.name": SERVICE}), start_time=at, end_time=at)
    losses = export_again([made], _EXPORT)
    where = endpoint()
    if losses.dropped + losses.failed:
        return Probed(where, "it did not take the probe span")
    if not jaeger:
        return Probed(where)
    began = time.monotonic()
    while True:
        try:
            found = fetch_spans(jaeger, [trace])
        except ConfigurationError:
            raise
        except ChoreoError as error:
            return Probed(where, jaeger=jaeger, missed=error.message)
        took = time.monotonic() - began
        if found:
            return Probed(where, jaeger=jaeger, found_after=round(took * SECOND))
        if took >= patience:
            missed = f"the probe span was taken, but Jaeger at {jaeger} has not shown it within {patience:.0f}s"
            return Probed(where, jaeger=jaeger, missed=missed)
        time.sleep(_LOOK)
