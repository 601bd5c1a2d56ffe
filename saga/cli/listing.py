"""`saga list`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ...events.clock import system_clock
from ...events.errors import ConfigurationError
from .bursts import folded_bursts
from .shell import UNLIMITED, Shell
from .shells import Shells
from .suggesting import types

if TYPE_CHECKING:
    from rich.text import Text

    from ...events.database import Database
    from ..instance import Instance
    from ..queries import Filter, SagaRow

_DEFAULT_LIMIT = 50
_Several = Annotated[list[str] | None, Parameter(negative="")]
_Text = Annotated[str, Parameter(show_default=False)]
_Flag = Annotated[bool, Parameter(negative="", show_default=False)]


async def list_(
    *,
    type: Annotated[list[str] | None, Parameter(negative="", completer=types)] = None,  # noqa: A002
    state: Annotated[list[str] | None, Parameter(name=["--state", "--phase"], negative="")] = None,
    condition: _Several = None,
    step: _Several = None,
    key: _Several = None,
    tag: _Several = None,
    since: _Text = "",
    until: _Text = "",
    older: _Text = "",
    error: _Text = "",
    failed: _Flag = False,
    waiting_for_person: _Flag = False,
    open: _Flag = False,  # noqa: A002 - the option's name
    all: _Flag = False,  # noqa: A002 - the option's name
    limit: int | None = None,
    sort: Literal["attention", "started", "updated", "key", "duration"] = "attention",
    full: _Flag = False,
    group_by: Annotated[Literal["error", "step", "type", "state"] | None, Parameter(show_default=False)] = None,
    watch: Annotated[bool, Parameter(name=["--watch", "-w"], negative="", show_default=False)] = False,
    shells: Annotated[Shells, Parameter(parse=False)],
) -> None:
    """List sagas: failed and open ones first, each newest first, 50 rows.

    Filters combine; of one given several times any value counts (of --condition and --tag, all).

    Args:
        type: of this type.
        state: in this phase (RUNNING, COMPENSATING, COMPLETED, COMPENSATED, FAILED, CANCELLED).
        condition: to which this applies (Late, OutOfOrder, WaitingForPerson, ...).
        step: of which something is expected at this step.
        key: with this business key; also with the name of its field, as in order_id=4711.
        tag: whose definition has this tag, as in team=checkout.
        since: started at or after this: 1h (ago), a date, or RFC 3339.
        until: started before this.
        older: to which nothing has happened for so long, e.g. 10m.
        error: with this in the class or the text of its error, in whatever case.
        failed: FAILED, or waiting for a person.
        waiting_for_person: waiting for a person; the note says for what.
        open: not ended.
        all: all of them, not 50 rows.
        limit: at most so many rows.
        sort: by what.
        full: with -o json or jsonl, each with its steps, as `saga status` has them.
        group_by: count them by this instead of listing them; a burst of one error is one line then.
        watch: go on showing it, until Ctrl-C; without a terminal one line for each change.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"--limit {limit}: write 1 or more")
    if watch and (group_by is not None or full):
        raise ConfigurationError(f"--watch shows the list itself; leave out {'--full' if full else '--group-by'}")
    from .. import queries
    from .grouping import show_groups
    from .times import moment

    now = system_clock()
    wanted = queries.Filter(
        types=type or (),
        phases=_words(state, "--state"),
        conditions=_conditions([*(condition or ()), *(["WaitingForPerson"] if waiting_for_person else ())]),
        steps=step or (),
        keys=key or (),
        tags=_tags(tag),
        since=moment(since, now, "--since") if since else None,
        until=moment(until, now, "--until") if until else None,
        quiet_since=moment(older, now, "--older") if older else None,
        error=error,
        only_failed=failed,
        only_open=open,
    )
    most = limit if limit is not None else None if all else _DEFAULT_LIMIT
    if group_by is not None:
        await show_groups(shells, wanted, by=group_by, limit=limit)
    elif watch:
        from .following import follow_list

        await follow_list(shells, wanted, sort=sort, limit=most)
    else:
        await show_list(shells, wanted, limit=most, sort=sort, full=full)


async def show_list(
    shells: Shells, wanted: Filter, *, limit: int | None, sort: str = "attention", full: bool = False
) -> None:
    """Print a list of sagas.

    Args:
        shells: where to, and of which stores.
        wanted: which.
        limit, sort, full: as for the command.
    """
    from .. import across

    shell = shells.first
    async with shells.sagas() as stores:
        now = await across.now(stores)
        if shell.machine:
            rows = await across.list_sagas(stores, wanted, sort=sort, limit=limit)
            found = await across.states(stores, [row.id for row in rows]) if full else {}
            shell.json([told(shell, row, found.get(row.id), now) for row in rows])
            return
        rows, counts, notes = await read_list(stores, wanted, sort=sort, limit=limit)
    if shell.output == "id":
        shell.lines(row.id for row in rows)
        return
    folded = folded_bursts([row for row in rows if row.id not in notes]) if shell.output == "text" else {}
    hidden = {row.id for burst in folded.values() for row in burst[1:]}
    notes |= {id_: f"{burst[0].error}, and {len(burst) - 1:,} more like it" for id_, burst in folded.items()}
    for line in list_lines(shell, [row for row in rows if row.id not in hidden], now, notes, shell.out.width):
        shell.out.print(line, no_wrap=True, overflow="ellipsis", crop=shell.out.width != UNLIMITED)
    shell.hint(footer(len(rows), counts))
    if folded:
        shell.hint("sagas that met one error are shown once: saga list --group-by error, or -o wide for each")


async def read_list(
    stores: Sequence[Database], wanted: Filter, *, sort: str, limit: int | None
) -> tuple[list[SagaRow], dict[str, int], dict[str, str]]:
    """Read a list: its rows, how many there are by phase, and for what sagas wait for a person."""
    from .. import across

    rows, counts = await across.list_and_count(stores, wanted, sort=sort, limit=limit)
    asking = [row.id for row in rows] if "WaitingForPerson" in wanted.conditions else []
    found = await across.states(stores, asking)
    return rows, counts, {id_: _asked(each.instance) for id_, each in found.items()}


def footer(shown: int, counts: dict[str, int]) -> str:
    """Say how many there are behind what is shown."""
    total = sum(counts.values())
    running = counts.get("RUNNING", 0) + counts.get("COMPENSATING", 0)
    ended = [(phase, counts.get(phase, 0)) for phase in ("COMPLETED", "COMPENSATED", "FAILED", "CANCELLED")]
    parts = [f"{count:,} {phase.lower()}" for phase, count in ended if count]
    return " · ".join([f"{shown:,} of {total:,}", *parts, *([f"{running:,} open"] if running else [])])


def told(shell: Shell, row: SagaRow, found: Any, now: int) -> dict[str, Any]:
    """Tell a row as JSON has it; with the state of its saga where that was read."""
    from .. import report
    from ..queries import Brakes

    if found is None:
        return report.summary(row, now)
    whole = report.status(found, (), report.Observed(now), Brakes(False, False), shell.settings.namespace)
    del whole["observed"]
    return whole


def _asked(instance: Instance) -> str:
    """Say for what a saga waits for a person."""
    from ..words import Condition

    remark = instance.conditions.get(Condition.WAITING_FOR_PERSON)
    return remark.message if remark is not None else ""


def list_lines(shell: Shell, rows: Sequence[SagaRow], now: int, notes: Mapping[str, str], width: int) -> list[Text]:
    """Lay out a list.

    Args:
        shell: for the style of times, and how much is shown.
        rows: the sagas.
        now: the store's clock, microseconds.
        notes: what is to be said of some of them, by id.
        width: of the page.
    """
    from rich.text import Text

    from ..pause_report import PAUSED
    from ..words import Condition
    from .glyphs import phase_look
    from .tables import lay_out
    from .times import show_time, span

    wide = shell.output == "wide"
    style = shell.time or "relative"
    headers = ["", "ID", "STATE", "STEP", "AGE" if style == "relative" else "STARTED", "TIME", "NOTE"]
    if wide:
        headers[2:2] = ["VERSION", "RUN", "UPDATED"]
    table = []
    for row in rows:
        phase = PAUSED if Condition.HELD in row.conditions else row.phase
        person, paused = Condition.WAITING_FOR_PERSON in row.conditions, Condition.PAUSED in row.conditions
        look = phase_look(PAUSED if paused else phase, waits_for_person=person and phase != PAUSED)
        cells: list[str | Text] = [
            Text(look.glyph, look.style),
            row.id,
            Text(phase, look.style),
            row.step or "-",
            show_time(row.started_at, style, now),
            span((row.ended_at or now) - row.started_at),
            notes.get(row.id) or " ".join([*row.conditions, *([row.error] if row.error else [])]) or "-",
        ]
        if wide:
            cells[2:2] = [str(row.version), str(row.run), show_time(row.updated_at, style, now)]
        table.append(cells)
    if not table:
        return []
    return lay_out(headers, table, width, right={len(headers) - 2, len(headers) - 3}, elastic={1, 3 + 3 * wide})


def _tags(given: list[str] | None) -> tuple[str, ...]:
    for each in given or ():
        if not all(each.partition("=")):
            raise ConfigurationError(f"--tag {each!r}: write name=value, as in --tag team=checkout")
    return tuple(given or ())


def _words(given: list[str] | None, option: str) -> tuple[str, ...]:
    from ..words import Phase

    known = [phase.value for phase in Phase]
    for each in given or ():
        if each.upper() not in known:
            raise ConfigurationError(f"{option} {each!r} is no phase; write {', '.join(known)}")
    return tuple(each.upper() for each in given or ())


def _conditions(given: list[str] | None) -> tuple[str, ...]:
    from ..words import Condition

    known = {condition.value.lower(): condition.value for condition in Condition}
    for each in given or ():
        if each.lower() not in known:
            raise ConfigurationError(f"--condition {each!r} is none; write one of {', '.join(known.values())}")
    return tuple(known[each.lower()] for each in given or ())
