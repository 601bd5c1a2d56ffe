"""Dead letters on the command line: which are meant, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ...events.errors import ConfigurationError, Refused, SagaNotFound
from .shell import Shell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ...events.transport import Transport
    from ...services.letters import Filed, Letter

LETTER = "saga.dead-letter/v1"
SETTLED = "saga.settled-letters/v1"
_SAMPLE = 3

Topics = Annotated[tuple[str, ...], Parameter(name="--topic", negative="", show_default=False)]
Text = Annotated[str, Parameter(show_default=False)]
Flag = Annotated[bool, Parameter(negative="", show_default=False)]


@asynccontextmanager
async def broker(shell: Shell) -> AsyncIterator[Transport]:
    """Open the broker; an embedded one must be there already."""
    from ...events.transports import connect

    settings = shell.settings
    path = settings.broker_url.removeprefix("local:")
    if path != settings.broker_url and not _exists(path):
        raise ConfigurationError(f"there is no broker at {path}; name one with --broker")
    async with connect(settings.broker_url, settings) as transport:
        yield transport


async def read(transport: Transport, topics: Sequence[str]) -> list[Filed]:
    """Read the dead letters of these topics, or of all."""
    from ...services.letters import read_letters

    return await read_letters(transport, topics)


def matching(
    *,
    service: str = "",
    saga: str = "",
    type_: str = "",
    step: str = "",
    error: str = "",
    since: str = "",
    settled: bool = False,
) -> Callable[[Filed], bool]:
    """Make the test that the options of a filter mean."""
    from ...events.clock import system_clock
    from .times import moment

    begin = moment(since, system_clock(), "--since") if since else None

    def wanted(filed: Filed) -> bool:
        letter = filed.letter
        return (
            (settled or filed.settled is None)
            and (not service or letter.service == service)
            and (not saga or saga in (letter.saga, letter.key))
            and (not type_ or letter.type == type_)
            and (not step or letter.step == step)
            and (not error or error.lower() in f"{letter.error}: {letter.message}".lower())
            and (begin is None or letter.at >= begin)
        )

    return wanted


def pick(found: Sequence[Filed], id_: str) -> Filed:
    """Find the one letter whose id begins so.

    Raises:
        SagaNotFound, ConfigurationError: there is none, or there are several.
    """
    near = [each for each in found if each.letter.id.startswith(id_)]
    if not near:
        raise SagaNotFound(f"there is no dead letter {id_!r}; saga dlq list shows them")
    if len(near) > 1:
        raise ConfigurationError(
            f"{id_!r} is the beginning of {', '.join(each.letter.id for each in near[:5])}; name one"
        )
    return near[0]


def pick_open(found: Sequence[Filed], id_: str) -> Letter:
    """Find the one letter whose id begins so, and which nobody has settled.

    Raises:
        SagaNotFound, ConfigurationError: there is none, or there are several.
        Refused: it was settled.
    """
    filed = pick(found, id_)
    if filed.settled is not None:
        raise Refused(f"{filed.letter.id} was {filed.settled.state} by {filed.settled.by} at {filed.settled.at}")
    return filed.letter


async def choose(
    transport: Transport, ids: Sequence[str], topics: Sequence[str], wanted: Callable[[Filed], bool], filtered: bool
) -> list[Letter]:
    """Give the open letters that are meant, the oldest first: that is their order."""
    if not ids and not filtered and not topics:
        raise ConfigurationError("which letters? name their ids, or a filter such as --service or --topic")
    found = await read(transport, topics)
    chosen = [pick_open(found, each) for each in ids] if ids else [each.letter for each in found if wanted(each)]
    unique = {letter.id: letter for letter in chosen}
    return sorted(unique.values(), key=lambda letter: (letter.at, letter.delivery.topic, letter.delivery.offset))


async def body_of(shell: Shell, transport: Transport, letter: Letter, reveal: bool) -> tuple[Any, str | None]:
    """Decode a letter's body, secrets masked or shown; give it, or None and why it cannot be read."""
    from .bodies import read_body

    return await read_body(shell.settings, transport, letter, reveal=reveal)


def question(what: str, letters: Sequence[Letter]) -> str:
    """Say what is about to be done, with a sample."""
    sample = ", ".join(f"{letter.id} ({letter.type or '?'} {letter.key})" for letter in letters[:_SAMPLE])
    more = f" and {len(letters) - _SAMPLE:,} more" if len(letters) > _SAMPLE else ""
    return f"{what}: {len(letters):,} dead letters, {sample}{more}"


def told(filed: Filed) -> dict[str, Any]:
    """Tell a letter as JSON has it."""
    from ..report import rfc3339

    letter, settled = filed.letter, filed.settled
    return {
        "schema": LETTER,
        "id": letter.id,
        "state": filed.state,
        "topic": letter.delivery.topic,
        "partition": letter.delivery.partition,
        "offset": letter.delivery.offset,
        "at": rfc3339(letter.at),
        "target": letter.target,
        "service": letter.service or None,
        "handler": letter.handler or None,
        "error_class": letter.error or None,
        "message": letter.message or None,
        "attempts": letter.attempts,
        "event_id": letter.event_id,
        "event_type": letter.type or None,
        "key": letter.key or None,
        "saga": letter.saga,
        "step": letter.step,
        "replays": letter.replays,
        "complete": letter.complete,
        "settled": None if settled is None else settled.model_dump(exclude={"id"}),
    }


def headers_of(letter: Letter) -> dict[str, str]:
    """Tell a letter's headers as text."""
    return {name: (value or b"").decode(errors="replace") for name, value in letter.delivery.headers}


def draw_letters(shell: Shell, found: Sequence[Filed]) -> None:
    """Print letters as a table."""
    from ...events.clock import system_clock
    from .tables import draw
    from .times import show_time

    if not found:
        return
    now, style = system_clock(), shell.time or "relative"
    rows = [
        [
            each.letter.id + ("" if each.settled is None else f" ({each.state})"),
            each.letter.delivery.topic,
            each.letter.type or "-",
            each.letter.saga or each.letter.key or "-",
            each.letter.step or "-",
            str(each.letter.attempts),
            show_time(each.letter.at, style, now),
            f"{each.letter.error}: {each.letter.message}" if each.letter.message else each.letter.error,
        ]
        for each in found
    ]
    headers = ["ID", "TOPIC", "EVENT", "SAGA OR KEY", "STEP", "TRIES", "AGE", "ERROR"]
    draw(shell, headers, rows, right={5}, elastic={3, 1})


def report(shell: Shell, letters: Sequence[Letter], what: str, refused: dict[str, str]) -> None:
    """Say what was done."""
    if shell.machine:
        shell.json(
            {
                "schema": "saga.settled-letters/v1",
                "what": what,
                "ids": [letter.id for letter in letters],
                "refused": [{"id": id_, "reason": told} for id_, told in refused.items()],
            }
        )
    elif shell.output == "id":
        shell.lines(letter.id for letter in letters)
    else:
        count = len(letters)
        named = letters[0].id if count == 1 else f"{count:,} dead letters"
        shell.lines([f"{named}: {what}" + (f"; {len(refused):,} refused" if refused else "")])


def _exists(path: str) -> bool:
    return Path(path).exists()
