"""`saga history`: every input of a saga, and what each changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ...events.errors import ConfigurationError
from .shell import Shell
from .suggesting import SagaName

if TYPE_CHECKING:
    from ...events.settings import Settings
    from ..inputs import Change
    from ..payloads import Payload
    from ..queries import Entry

_LEAST_WITH_PLACE = 110
_LEAST_EFFECT = 24
_DAY = len("2026-11-21")

Told = tuple[Any, str | None]
"""What an event said, or None and why that cannot be read."""


async def history(
    saga: SagaName,
    /,
    *,
    step: Annotated[str, Parameter(show_default=False)] = "",
    last: Annotated[int | None, Parameter(show_default=False)] = None,
    payloads: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    reveal: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Show every input of a saga, the oldest first: who said what, where it stands, and what it changed and why.

    On a terminal what is long is shown in $SAGA_PAGER, else $PAGER.

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        step: only what changed this step.
        last: only so many, the newest.
        payloads: also what the events said; secrets are masked.
        reveal: with --payloads, show secrets and decrypt what is encrypted.
    """
    from .. import payloads as said
    from .. import queries
    from ..recorded import history_gone
    from ..report import history_entry
    from .paging import paged
    from .status import find

    if last is not None and last < 1:
        raise ConfigurationError(f"--last {last}: write 1 or more")
    async with shell.sagas() as database:
        id_ = await find(database, saga)
        entries, kept = await database.read(
            lambda c: (queries.read_history(c, id_), said.read_payloads(c, id_) if payloads else {})
        )
    chosen = [each for each in entries if not step or any(change.step == step for change in each.changes)]
    chosen = chosen if last is None else chosen[-last:]
    told = await read_payloads(
        shell.settings, {each.seq: kept[each.seq] for each in chosen if each.seq in kept}, reveal
    )
    if shell.machine:
        shell.json([with_payload(history_entry(id_, each), told.get(each.seq), asked=payloads) for each in chosen])
    elif shell.output == "id":
        shell.lines(each.event_id for each in chosen)
    else:
        with paged(shell):
            draw_history(shell, chosen, told)
        shell.hint(f"{len(chosen):,} of {len(entries):,} inputs of {id_}" if entries else history_gone(id_))


async def read_payloads(settings: Settings, kept: Mapping[int, Payload], reveal: bool = False) -> dict[int, Told]:
    """Decode what events said, by their place in the history."""
    from ..payloads import Payloads

    if not kept:
        return {}
    async with Payloads(settings, reveal=reveal) as reader:
        return {
            seq: await reader.read(each.value, each.content_type, each.type, each.event_id)
            for seq, each in kept.items()
        }


def with_payload(entry: dict[str, Any], told: Told | None, *, asked: bool) -> dict[str, Any]:
    """Add to an entry what its event said, where that was asked for."""
    if not asked:
        return entry
    value, problem = (None, None) if told is None else told
    return {**entry, "payload": json.loads(json.dumps(value, default=str)), "payload_error": problem}


def draw_history(shell: Shell, entries: Sequence[Entry], told: Mapping[int, Told]) -> None:
    """Print inputs, each with what it changed, and what it said where that was read."""
    from textwrap import wrap

    from rich.text import Text

    from .shell import UNLIMITED
    from .tables import lay_out

    if not entries:
        return
    width = shell.out.width
    narrow = width < _LEAST_WITH_PLACE
    headers = ["#", "TIME", "INPUT", "FROM", *([] if narrow else ["AT"])]
    rows = [
        [str(each.seq), _time(shell, each, entries), each.type or each.kind, each.source or "-"]
        + ([] if narrow else [each.place or "-"])
        for each in entries
    ]
    drawn = lay_out(headers, rows, max(width - _LEAST_EFFECT, _LEAST_EFFECT), right={0}, elastic={2, 3})
    taken = max(line.cell_len for line in drawn) + 2
    effects = ["WHAT IT CHANGED", *(_effect(each) for each in entries)]
    for number, (line, effect) in enumerate(zip(drawn, effects, strict=True)):
        room = UNLIMITED if width == UNLIMITED else max(width - taken, _LEAST_EFFECT)
        first, *more = wrap(effect, room) or [""]
        line.append(" " * (taken - line.cell_len))
        line.append(first, "" if number else "bold")
        spelled = told.get(entries[number - 1].seq) if number else None
        rest = [Text(" " * taken + each) for each in more]
        rest += [Text(f"   {each}", "dim") for each in (() if spelled is None else _spelled(spelled))]
        for each in (line, *rest):
            shell.out.print(each, no_wrap=True, overflow="ellipsis", crop=width != UNLIMITED)


def _time(shell: Shell, entry: Entry, entries: Sequence[Entry]) -> str:
    """The time of day, and the day where there are several."""
    from .times import clock_time, show_time

    style = shell.time if shell.time in ("utc", "raw") else "local"
    days = {show_time(each.at, style, each.at)[:_DAY] for each in entries} if style != "raw" else set()
    day = show_time(entry.at, style, entry.at)[:_DAY] if len(days) > 1 else ""
    return f"{day} {clock_time(entry.at, style)}".strip()


def describe(change: Change, input_type: str = "") -> str:
    """Say one change in a few words, with its reason where that is not the input itself."""
    why = f" ({change.reason})" if input_type and change.reason and change.reason != input_type else ""
    return f"{change.step or 'saga'} {change.state}{why}"


def _effect(entry: Entry) -> str:
    told = f"ignored: {entry.reason}" if entry.verdict == "ignored" else ""
    told = told or ", ".join(describe(change, entry.type or entry.kind) for change in entry.changes) or "-"
    return f"{told}; {entry.said}" if entry.said else told


def _spelled(found: Told) -> list[str]:
    value, problem = found
    return (
        [problem] if problem is not None else json.dumps(value, ensure_ascii=False, indent=1, default=str).split("\n")
    )
