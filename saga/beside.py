"""What is said with a saga that its state does not know: who should answer and is away, and who shares its error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from ..events.envelope import TopicPartition
from . import causes, whereabouts
from .alerts import standstill
from .conditions import condition
from .explanation import Reason
from .queries import Brakes, Found
from .report import Observed
from .surroundings import Surroundings
from .why import Place, explain
from .words import Condition

_TOLD = {Condition.CONSUMER_DOWN: "NoMembers", Condition.CONSUMER_LAGGING: "Lag"}
"""What only the broker knows, and is a condition: its reason."""


def complete(
    connection: Connection,
    told: dict[str, Any],
    found: Found,
    observed: Observed,
    brakes: Brakes,
    now: int,
    stuck: int | None = None,
) -> None:
    """Add to `saga.status/v1` what stands beside the saga.

    Args:
        connection: within a read.
        told: what `report.status` made; it is completed in place.
        found: the saga.
        observed, brakes: what it was made of.
        now: the store's clock, microseconds.
        stuck: how long a saga must have waited for what is wrong to be stuck, microseconds; None: none is.
    """
    definition, instance, _ = found
    told["keys"] = {definition.key: instance.key}
    told["tags"] = dict(definition.tags)
    if (cause := told["cause"]) is not None:
        error = cause["error_class"]
        cause["signature"] = causes.signature(instance.type, cause["step"], error) if error else None
        cause["same_signature_last_hour"] = causes.alike(connection, instance, now)
        cause["runbook"] = definition.tags.get(f"runbook.{cause['step']}") or definition.tags.get("runbook")
    around = observed.around
    told["observed"]["lag_age_ms"] = None if around is None else max(0, now - observed.asked_at) // 1_000
    if around is not None and not instance.phase.ended:
        known = {(each["type"], each["step"]) for each in told["conditions"]}
        places = whereabouts.read_places(connection, instance.id)
        told["conditions"] += [
            each
            for each in noticed(found, places, around, brakes, now, stuck)
            if (each["type"], each["step"]) not in known
        ]


def noticed(
    found: Found,
    places: Mapping[str, tuple[str, int, int]],
    around: Surroundings,
    brakes: Brakes,
    now: int,
    stuck: int | None = None,
) -> Sequence[dict[str, Any]]:
    """Tell the conditions that only show at the broker: who should answer is away, or behind, and that for long.

    Args:
        found: the saga.
        places: where the events of its history stood, by event id.
        around: what was seen at the broker.
        brakes: what holds all sagas back.
        now: the store's clock, microseconds.
        stuck: as `complete` takes it.
    """
    at = {event: Place(TopicPartition(topic, number), offset) for event, (topic, number, offset) in places.items()}
    explanation = explain(found.definition, found.instance, at, around, brakes, now)
    told = [
        condition(each.code, _TOLD[Condition(each.code)], each.sentence, _since(each, now), each.step)
        for each in explanation.reasons
        if each.code in _TOLD
    ]
    still = None if stuck is None else standstill(found.instance, explanation, now, stuck)
    if still is not None:
        reason, since = still
        told.append(condition(Condition.STUCK, reason.code, reason.sentence, since, reason.step))
    return told


def _since(reason: Reason, now: int) -> int:
    return now if reason.since is None else reason.since
