"""Every instrument that there is: its name, kind, unit, attributes and meaning. `docs/metrics.md` shows the same table.

Names follow the messaging conventions 1.44.0 (status Development) where they have one, else they begin with `saga.` or
`choreo.`. No attribute names a single saga, event or key: a time series per order would be no metric.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]

SYSTEM = "messaging.system"
OPERATION = "messaging.operation.name"
TOPIC = "messaging.destination.name"
GROUP = "messaging.consumer.group.name"
ERROR = "error.type"
HANDLER = "choreo.handler"
OUTCOME = "choreo.outcome"
OUTBOX = "choreo.outbox"
PART = "choreo.part"
PIPELINE = "choreo.pipeline"
METHOD = "http.request.method"
ROUTE = "http.route"
STATUS_CODE = "http.response.status_code"
TYPE = "saga.type"
PHASE = "saga.phase"
STATUS = "saga.status"
CONDITION = "saga.condition"
STEP = "saga.step"
STEP_KIND = "saga.step.kind"
STEP_OUTCOME = "saga.step.outcome"

_QUICK = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds, as the conventions recommend for handlers."""

_LONG = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0, 604_800.0)
"""Seconds, from an instant to a week: sagas may wait for people."""


class Instrument(NamedTuple):
    """One instrument.

    Args:
        name: as OpenTelemetry knows it.
        kind: a counter only grows, a gauge is as it is now.
        unit: UCUM.
        description: one sentence.
        attributes: those that it may have.
        bounds: upper bounds of a histogram's buckets.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...]
    bounds: tuple[float, ...] = ()


INSTRUMENTS: dict[str, Instrument] = {
    each.name: each
    for each in (
        Instrument(
            "messaging.client.sent.messages",
            "counter",
            "{message}",
            "Messages that the broker has acknowledged, or (with error.type) that could not be sent this time.",
            (SYSTEM, OPERATION, TOPIC, ERROR),
        ),
        Instrument(
            "messaging.client.consumed.messages",
            "counter",
            "{message}",
            "Messages that were read.",
            (SYSTEM, OPERATION, TOPIC, GROUP),
        ),
        Instrument(
            "messaging.process.duration",
            "histogram",
            "s",
            "Duration of a handler's tries; of a batch handler's, of the whole batch.",
            (SYSTEM, OPERATION, TOPIC, GROUP, HANDLER, ERROR),
            _QUICK,
        ),
        Instrument(
            "choreo.handled.messages",
            "counter",
            "{message}",
            "What became of a service's events, one for each handler: handled, duplicates, refused, dead, parked, "
            "delayed (to a retry topic), skipped.",
            (GROUP, OUTCOME),
        ),
        Instrument(
            "choreo.handler.retries", "counter", "{retry}", "Failed tries that were followed by another.", (GROUP,)
        ),
        Instrument(
            "choreo.handler.breaker.open",
            "gauge",
            "{breaker}",
            "1 while a handler's breaker keeps it from being called, else 0.",
            (GROUP, HANDLER),
        ),
        Instrument(
            "choreo.dead.letters",
            "counter",
            "{message}",
            "Records given to dead letters, by a service or by the coordinator.",
            (GROUP,),
        ),
        Instrument(
            "choreo.parked.messages",
            "gauge",
            "{message}",
            "Events that wait in the store: for their key's handler to work again, or for their saga.",
            (GROUP,),
        ),
        Instrument(
            "choreo.consumer.lag",
            "gauge",
            "{message}",
            "Records behind what a consumer group has finished, in the partitions that this process reads.",
            (GROUP, TOPIC),
        ),
        Instrument(
            "choreo.consumer.lag.time",
            "gauge",
            "s",
            "Age of the oldest of these records; at most so much where it was not read yet.",
            (GROUP, TOPIC),
        ),
        Instrument(
            "choreo.outbox.waiting",
            "gauge",
            "{event}",
            "Events that are committed and not published, counted up to 100,000.",
            (OUTBOX,),
        ),
        Instrument(
            "choreo.outbox.lag",
            "gauge",
            "s",
            "Age of the oldest event that is committed and not published.",
            (OUTBOX,),
        ),
        Instrument(
            "choreo.outbox.published",
            "counter",
            "{event}",
            "Events of an existing system's outbox that the broker has acknowledged.",
            (OUTBOX,),
        ),
        Instrument(
            "choreo.spans.dropped",
            "counter",
            "{span}",
            "Spans that were lost: the queue was full, or the exporter could not deliver them.",
            (PART, PIPELINE),
        ),
        Instrument(
            "saga.active",
            "gauge",
            "{saga}",
            "Sagas in the store that are RUNNING or COMPENSATING, or FAILED and waiting for a person.",
            (TYPE, PHASE),
        ),
        Instrument(
            "saga.conditions", "gauge", "{saga}", "Those of them with a condition, such as Late.", (TYPE, CONDITION)
        ),
        Instrument("saga.started", "counter", "{saga}", "Sagas that began.", (TYPE,)),
        Instrument("saga.finished", "counter", "{saga}", "Sagas that ended, by how.", (TYPE, STATUS)),
        Instrument(
            "saga.duration",
            "histogram",
            "s",
            "From a saga's first trigger to its last outcome.",
            (TYPE, STATUS),
            _LONG,
        ),
        Instrument(
            "saga.step.duration",
            "histogram",
            "s",
            "From a step's trigger to its outcome; kind compensation: of its undo.",
            (TYPE, STEP, STEP_KIND, STEP_OUTCOME),
            _LONG,
        ),
        Instrument(
            "choreo.timers.held",
            "gauge",
            "{breaker}",
            "1 while the breaker holds the limits of sagas because too many would time out at once, else 0.",
            (),
        ),
        Instrument(
            "choreo.retention.removed",
            "counter",
            "{row}",
            "What was cleaned up by age so far: histories of ended sagas, sagas, and what people asked for.",
            (PART,),
        ),
        Instrument(
            "http.server.request.duration",
            "histogram",
            "s",
            "Duration of requests to the web view or the gateway of `saga serve`; streams of changes are left out.",
            (METHOD, ROUTE, STATUS_CODE),
            _QUICK,
        ),
        Instrument("choreo.web.streams", "gauge", "{stream}", "Pages of the web view that look on at changes.", ()),
        Instrument("choreo.undo.stopped", "gauge", "{switch}", "1 while `saga stop` holds all undos, else 0.", ()),
    )
}
"""Every instrument by its name."""
