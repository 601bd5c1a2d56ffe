"""`saga watch`: follow one saga until it ends."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ...events.errors import Refused, SagaNotFound, StoreUnreachable
from . import exits
from .letterbox import Flag
from .shell import Shell
from .status import find, look, outcome_of, probe, waits_for_person
from .suggesting import SagaName

if TYPE_CHECKING:
    from ...events.database import Database
    from ..looking import View
    from ..queries import Entry

_POLL = 0.25
_PROBE_EVERY = 40


async def watch(
    saga: SagaName,
    /,
    *,
    timeout: float | None = None,
    compact: Flag = False,
    notify: Flag = False,
    bars: Annotated[bool, Parameter(negative="--no-bars", show_default=False)] = True,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Follow a saga until it ends or waits for a person, and end with its outcome (`saga help exit-codes`).

    On a terminal it is one frame that stays when it is over. Elsewhere each change is one line; with -o jsonl each is
    one object, with -o json the saga's last status is printed at its end. `saga status -w` shows the whole picture.

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        timeout: give up after so many seconds, with exit code 6; default: never.
        compact: only steps that have failed or are under way, and of the changes only those of the saga.
        notify: ring the terminal's bell at the end, and send the notification that many terminals show.
        bars: draw how far it is.
    """
    return await follow(shell, saga, picture=False, bars=bars, timeout=timeout, compact=compact, notify=notify)


async def follow(
    shell: Shell,
    saga: str,
    *,
    picture: bool,
    bars: bool,
    timeout: float | None = None,
    compact: bool = False,
    notify: bool = False,
) -> int:
    """Follow a saga; give its outcome as an exit code.

    Args:
        shell: where to.
        saga: as somebody names it.
        picture: draw all that `saga status` draws, instead of the shorter frame.
        bars, timeout, compact, notify: as for the command.
    """
    from ..report import Observed

    async with shell.sagas() as database:
        id_ = await find(database, saga)
        try:
            async with asyncio.timeout(timeout):
                if shell.interactive and shell.output in ("text", "wide"):
                    view = await _live(shell, database, id_, picture=picture, bars=bars, compact=compact)
                else:
                    view = await _lines(shell, database, id_, compact=compact)
        except TimeoutError:
            view = await look(database, shell.settings, id_, Observed(0))
            shell.complain(_still_open(view, timeout), kind="TimedOut", code=exits.TIMED_OUT)
            return exits.TIMED_OUT
        finally:
            if notify:
                _notify(saga)
    if shell.output == "json":
        shell.json(view.told)
    return outcome_of(view.told)


def _notify(saga: str) -> None:
    """Ring, and tell terminals that can show it (OSC 9); where there is no terminal nobody hears."""
    if sys.stderr.isatty():
        name = "".join(letter for letter in saga if letter.isprintable())
        sys.stderr.write(f"\x1b]9;saga {name} is over\x07\x07")
        sys.stderr.flush()


async def wait(
    saga: SagaName,
    /,
    *,
    event: str | None = None,
    timeout: float | None = None,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Wait until a saga ends, and end with its outcome (`saga help exit-codes`): for scripts and schedulers.

    One that has not begun yet is waited for too. Called again it waits for the same saga.

    Args:
        saga: type/key, the key alone where only one type has it.
        event: id of the event that began it: the run that is meant, whatever other runs the key has. Wants type/key.
        timeout: give up after so many seconds, with exit code 6; default: never.
    """
    from ..report import Observed

    async with shell.sagas() as database:
        id_: str | None = None
        try:
            async with asyncio.timeout(timeout):
                id_ = await _begun(shell, database, saga, event)
                async for seen in _views(shell, database, id_, beside=False):
                    view = seen
        except TimeoutError:
            if id_ is not None:
                told = _still_open(await look(database, shell.settings, id_, Observed(0)), timeout)
            else:
                by = "" if event is None else f" by event {event}"
                told = f"{saga} has not begun{by} after {timeout:g}s; saga why {saga} says what it waits for"
            shell.complain(told, kind="TimedOut", code=exits.TIMED_OUT)
            return exits.TIMED_OUT
    shell.json(view.told) if shell.machine else shell.lines([f"{id_} {view.told['phase']}"])
    return outcome_of(view.told)


async def _begun(shell: Shell, database: Database, saga: str, event: str | None) -> str:
    from ..attaching import run_of
    from ..names import parse_saga_id

    name = None if event is None else parse_saga_id(saga)
    while True:
        try:
            if name is None or event is None:
                return await find(database, saga)
            found = await database.read(lambda connection: run_of(connection, name.type, name.key, event))
            if found.refused is not None:
                raise Refused(found.refused)
            if found.id is not None:
                return found.id
        except SagaNotFound:
            pass
        except StoreUnreachable as error:
            shell.hint(f"waiting for the store: {error.message}")
        await asyncio.sleep(_POLL)


def _still_open(view: View, timeout: float | None) -> str:
    """Name the step and the reason."""
    told = view.told
    step = next((step for step in told["steps"] if step["note"] and step["name"] == told["step"]), None)
    why = f" at {told['step']}" if told["step"] else ""
    if step is not None:
        why += f", {step['note']}"
    return f"{told['id']} is still {told['phase']} after {timeout:g}s{why}"


async def _views(shell: Shell, database: Database, id_: str, *, beside: bool) -> AsyncIterator[View]:
    """Look again and again until the saga has ended or waits for a person; a store that is away is asked again.

    Args:
        shell, database, id_: what to look at.
        beside: now and then also at what surrounds the store.
    """
    from ..report import Observed

    looks, observed = 0, Observed(0)
    while True:
        try:
            if beside and looks % _PROBE_EVERY == 0:
                observed = await probe(database, shell.settings, id_)
            view = await look(database, shell.settings, id_, observed)
        except StoreUnreachable as error:
            shell.hint(f"waiting for the store: {error.message}")
            await asyncio.sleep(1.0)
            continue
        looks += 1
        yield view
        if view.found.instance.phase.ended or waits_for_person(view.told):
            return
        await asyncio.sleep(_POLL)


async def _lines(shell: Shell, database: Database, id_: str, *, compact: bool) -> View:
    """One line, or one object, for each change."""
    from .watching import change_lines

    seen = 0
    async for view in _views(shell, database, id_, beside=False):
        for entry in view.entries:
            if entry.seq <= seen or shell.output == "json":
                continue
            shown = entry._replace(changes=tuple(each for each in entry.changes if not compact or each.step is None))
            if shell.output == "jsonl":
                shell.lines(_objects(id_, shown))
            elif shell.output != "id":
                shell.lines(change_lines(shell, view, shown))
        seen = max([seen, *(entry.seq for entry in view.entries)])
    if shell.output == "id":
        shell.lines([id_])
    return view


def _objects(id_: str, entry: Entry) -> list[str]:
    from .. import report

    shared = report.history_entry(id_, entry)
    told = [{**shared, "schema": report.CHANGE, **change} for change in shared.pop("changes")]
    return [json.dumps(each, ensure_ascii=False, separators=(",", ":")) for each in told]


async def _live(shell: Shell, database: Database, id_: str, *, picture: bool, bars: bool, compact: bool) -> View:
    """A frame that is drawn again; the last one stays."""
    from rich.console import Group
    from rich.live import Live

    from .drawing import next_commands, status_lines
    from .watching import Progress, frame

    progress = Progress()
    with Live(console=shell.out, auto_refresh=False, transient=False) as live:
        async for view in _views(shell, database, id_, beside=True):
            progress, width = progress.onward(view.told), shell.out.width
            lines = (
                status_lines(shell, view, width, bars=bars)
                if picture
                else frame(shell, view, progress, width, compact=compact, bars=bars)
            )
            live.update(Group(*lines), refresh=True)
    shell.hint(next_commands(view.told))
    return view
