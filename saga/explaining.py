"""Why one saga is where it is, read and explained: the store and the broker are asked here, `why` judges."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from ..events.database import Database
from ..events.envelope import TopicPartition
from ..events.errors import SagaNotFound
from . import queries, whereabouts
from .report import rfc3339
from .surroundings import Surroundings
from .usual import pace_of
from .why import Explanation, Place, explain, explain_absent

WHY = "saga.why/v1"


class Explained(NamedTuple):
    """The answer, with the saga's whole name and phase; both are None where it has not begun."""

    id: str | None
    phase: str | None
    explanation: Explanation
    at: int

    def as_json(self) -> dict[str, Any]:
        """Tell it as the shape `saga.why/v1`."""
        explanation = self.explanation
        return {
            "schema": WHY,
            "id": self.id,
            "phase": self.phase,
            "headline": explanation.headline,
            "reasons": [
                {**each._asdict(), "since": rfc3339(each.since), "remedies": list(each.remedies)}
                for each in explanation.reasons
            ],
            "prospects": [{"at": rfc3339(each.at), "sentence": each.sentence} for each in explanation.prospects],
            "remedies": list(explanation.remedies),
            "forecast": [each.as_json() for each in explanation.usual],
            "at": rfc3339(self.at),
        }


async def explain_saga(
    database: Database, saga: str, survey: Callable[[Iterable[str]], Awaitable[Surroundings]]
) -> Explained:
    """Explain a saga, or why there is none yet.

    Args:
        database: the store.
        saga: which, as `queries.resolve` takes it.
        survey: asks the broker, given the topics that the saga's definition names.

    Raises:
        SagaNotFound, AmbiguousSaga: there is none, and no event waits for it; or there are several.
    """
    now = await database.read(database.now)
    try:
        id_ = await database.read(lambda connection: queries.resolve(connection, saga))
    except SagaNotFound:
        early = await database.read(lambda connection: queries.early_events(connection, saga))
        if not early:
            raise
        return Explained(None, None, explain_absent(saga, early, await survey(()), now), now)
    found, stood, brakes, queued = await database.read(
        lambda c: (
            queries.load(c, id_),
            whereabouts.read_places(c, id_),
            queries.brakes(c),
            whereabouts.queued_commands(c, id_),
        )
    )
    places = {event: Place(TopicPartition(topic, number), offset) for event, (topic, number, offset) in stood.items()}
    around = await survey(found.definition.topics.values())
    pace, alike = await database.read(
        lambda c: (pace_of(c, found.instance.type), queries.count_alike(c, found.instance, now))
    )
    told = explain(found.definition, found.instance, places, around, brakes, now, queued, pace, alike)
    return Explained(id_, found.instance.phase.value, told, now)
