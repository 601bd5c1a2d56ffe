"""`saga why`: what a saga waits for, why it does not come, what happens if nothing changes, and what one can do."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ...events.errors import SagaNotFound
from . import exits
from .shell import Shell

if TYPE_CHECKING:
    from ...events.database import Database
    from ..why import Explanation

_INDENT = 10
_LEAST_ROOM = 30


async def why(saga: str, /, *, shell: Annotated[Shell, Parameter(parse=False)]) -> int:
    """Say what a saga waits for, who should answer and why they have not, what happens next by itself, and what to do.

    It joins the saga's state and history with the broker: consumer groups, lag, topics and what services announce. With
    the broker down it says so, and what the store knows.

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
    """
    from ..report import rfc3339

    async with shell.sagas() as database:
        now = await database.read(database.now)
        id_, phase, explanation = await _explain(shell, database, saga, now)
    if shell.machine:
        shell.json(
            {
                "schema": "saga.why/v1",
                "id": id_,
                "phase": phase,
                "headline": explanation.headline,
                "reasons": [
                    {**each._asdict(), "since": rfc3339(each.since), "remedies": list(each.remedies)}
                    for each in explanation.reasons
                ],
                "prospects": [{"at": rfc3339(each.at), "sentence": each.sentence} for each in explanation.prospects],
                "remedies": list(explanation.remedies),
                "at": rfc3339(now),
            }
        )
    else:
        _draw(shell, explanation, now)
        if id_ is not None:
            shell.hint(f"next  saga status {id_} · saga status {id_} --history")
    return exits.OK


async def _explain(shell: Shell, database: Database, saga: str, now: int) -> tuple[str | None, str | None, Explanation]:
    from ...events.envelope import TopicPartition
    from .. import queries
    from ..why import Place, explain, explain_absent
    from .observing import survey

    try:
        id_ = await database.read(lambda connection: queries.resolve(connection, saga))
    except SagaNotFound:
        early = await database.read(lambda connection: queries.early_events(connection, saga))
        if not early:
            raise
        return None, None, explain_absent(saga, early, await survey(shell.settings, ()), now)
    found, stood, brakes, queued = await database.read(
        lambda c: (
            queries.load(c, id_),
            queries.read_places(c, id_),
            queries.brakes(c),
            queries.queued_commands(c, id_),
        )
    )
    places = {event: Place(TopicPartition(topic, number), offset) for event, (topic, number, offset) in stood.items()}
    around = await survey(shell.settings, found.definition.topics.values())
    told = explain(found.definition, found.instance, places, around, brakes, now, queued)
    return id_, found.instance.phase.value, told


def _draw(shell: Shell, explanation: Explanation, now: int) -> None:
    from ...events.clock import format_duration

    lines = [explanation.headline]
    for number, reason in enumerate(explanation.reasons):
        lines += _field("" if number else "why", reason.sentence, shell.out.width)
    for number, prospect in enumerate(explanation.prospects):
        when = f"in {format_duration(prospect.at - now)}" if prospect.at > now else "now"
        lines += _field("" if number else "then", f"{when}: {prospect.sentence}", shell.out.width)
    for number, remedy in enumerate(explanation.remedies):
        lines += _field("" if number else "do", remedy, shell.out.width)
    shell.lines(lines)


def _field(name: str, text: str, width: Any) -> list[str]:
    room = max(min(int(width), 120) - _INDENT, _LEAST_ROOM)
    return [
        f"  {name if not number else '':<{_INDENT - 2}}{line}"
        for number, line in enumerate(wrap(text, room, break_on_hyphens=False, break_long_words=False) or [""])
    ]
