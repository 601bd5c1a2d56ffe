"""`saga list`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ...events.clock import system_clock
from ...events.errors import ConfigurationError
from .shell import Shell

if TYPE_CHECKING:
    from ..instance import Instance
    from ..queries import SagaRow

_DEFAULT_LIMIT = 50


async def list_(
    *,
    type: list[str] | None = None,  # noqa: A002 - the option's name
    state: Annotated[list[str] | None, Parameter(name=["--state", "--phase"])] = None,
    condition: list[str] | None = None,
    step: list[str] | None = None,
    key: list[str] | None = None,
    since: str = "",
    until: str = "",
    failed: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    waiting_for_person: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    open: Annotated[bool, Parameter(negative="", show_default=False)] = False,  # noqa: A002
    all: Annotated[bool, Parameter(negative="", show_default=False)] = False,  # noqa: A002
    limit: int | None = None,
    sort: Literal["attention", "started", "updated", "key", "duration"] = "attention",
    full: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    group_by: Annotated[Literal["error", "step", "type", "state"] | None, Parameter(show_default=False)] = None,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """List sagas: failed and open ones first, each newest first, 50 rows.

    Filters combine; of one given several times any value counts (of --condition, all).

    Args:
        type: of this type.
        state: in this phase (RUNNING, COMPENSATING, COMPLETED, COMPENSATED, FAILED, CANCELLED).
        condition: to which this applies (Late, OutOfOrder, WaitingForPerson, ...).
        step: of which something is expected at this step.
        key: with this business key.
        since: started at or after this: 1h (ago), a date, or RFC 3339.
        until: started before this.
        failed: FAILED, or waiting for a person.
        waiting_for_person: waiting for a person; the note says for what.
        open: not ended.
        all: all of them, not 50 rows.
        limit: at most so many rows.
        sort: by what.
        full: with -o json or jsonl, each with its steps, as `saga status` has them.
        group_by: count them by this instead of listing them; a burst of one error is one line then.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"--limit {limit}: write 1 or more")
    from .times import moment

    now = system_clock()
    await (_show_groups if group_by is not None else show_list)(
        shell,
        types=type or (),
        phases=_words(state, "--state"),
        conditions=_conditions([*(condition or ()), *(["WaitingForPerson"] if waiting_for_person else ())]),
        steps=step or (),
        keys=key or (),
        since=moment(since, now, "--since") if since else None,
        until=moment(until, now, "--until") if until else None,
        only_failed=failed,
        only_open=open,
        limit=limit if limit is not None else None if all else _DEFAULT_LIMIT,
        **({"sort": sort, "full": full} if group_by is None else {"by": group_by}),
    )


async def show_list(
    shell: Shell, *, limit: int | None, sort: str = "attention", full: bool = False, **filters: Any
) -> None:
    """Print a list of sagas; `filters` are the fields of `queries.Filter` with `types` for `type` and so on."""
    from .. import queries

    wanted = queries.Filter(**filters)
    async with shell.sagas() as database:
        now = await database.read(database.now)
        rows = await database.read(lambda connection: queries.list_sagas(connection, wanted, sort=sort, limit=limit))
        if shell.machine:
            found = await database.read(lambda c: queries.states(c, [row.id for row in rows])) if full else {}
            shell.json([_told(shell, row, found.get(row.id), now) for row in rows])
            return
        counts = await database.read(lambda connection: queries.count_phases(connection, wanted))
        asking = [row.id for row in rows] if "WaitingForPerson" in wanted.conditions else []
        found = await database.read(lambda c: queries.states(c, asking))
    if shell.output == "id":
        shell.lines(row.id for row in rows)
        return
    _draw(shell, rows, now, {id_: _asked(each.instance) for id_, each in found.items()})
    shell.hint(footer(len(rows), counts))


async def _show_groups(shell: Shell, *, by: str, limit: int | None, **filters: Any) -> None:
    from .. import queries
    from ..report import rfc3339
    from .tables import draw
    from .times import show_time

    wanted = queries.Filter(**filters)
    async with shell.sagas() as database:
        now = await database.read(database.now)
        groups = await database.read(lambda connection: queries.group_sagas(connection, wanted, by))
    shown = groups[:limit]
    if shell.machine:
        shell.json(
            [
                {
                    "schema": "saga.group/v1",
                    "by": by,
                    "value": each.value,
                    "count": each.size,
                    "first_at": rfc3339(each.first_at),
                    "last_at": rfc3339(each.last_at),
                    "example": each.example,
                }
                for each in shown
            ]
        )
        return
    style = shell.time or "relative"
    rows = [
        [
            f"{each.size:,}",
            each.value or "-",
            show_time(each.first_at, style, now),
            show_time(each.last_at, style, now),
            each.example,
        ]
        for each in shown
    ]
    if rows:
        draw(shell, ["COUNT", by.upper(), "FIRST", "LAST", "EXAMPLE"], rows, right={0}, elastic={1})
    shell.hint(f"{sum(each.size for each in groups):,} sagas in {len(groups):,} groups")


def footer(shown: int, counts: dict[str, int]) -> str:
    """Say how many there are behind what is shown."""
    total = sum(counts.values())
    running = counts.get("RUNNING", 0) + counts.get("COMPENSATING", 0)
    ended = [(phase, counts.get(phase, 0)) for phase in ("COMPLETED", "COMPENSATED", "FAILED", "CANCELLED")]
    parts = [f"{count:,} {phase.lower()}" for phase, count in ended if count]
    return " · ".join([f"{shown:,} of {total:,}", *parts, *([f"{running:,} open"] if running else [])])


def _told(shell: Shell, row: SagaRow, found: Any, now: int) -> dict[str, Any]:
    from .. import report
    from ..queries import Brakes

    if found is None:
        return report.summary(row, now)
    told = report.status(found, (), report.Observed(now), Brakes(False, False), shell.settings.namespace)
    del told["observed"]
    return told


def _asked(instance: Instance) -> str:
    """Say for what a saga waits for a person."""
    from ..words import Condition

    remark = instance.conditions.get(Condition.WAITING_FOR_PERSON)
    return remark.message if remark is not None else ""


def _draw(shell: Shell, rows: Sequence[SagaRow], now: int, notes: Mapping[str, str]) -> None:
    from rich.text import Text

    from ..words import Condition
    from .glyphs import phase_look
    from .tables import draw
    from .times import show_time, span

    wide = shell.output == "wide"
    style = shell.time or "relative"
    headers = ["", "ID", "STATE", "STEP", "AGE" if style == "relative" else "STARTED", "TIME", "NOTE"]
    if wide:
        headers[2:2] = ["VERSION", "RUN", "UPDATED"]
    table = []
    for row in rows:
        look = phase_look(row.phase, waits_for_person=Condition.WAITING_FOR_PERSON in row.conditions)
        cells: list[str | Text] = [
            Text(look.glyph, look.style),
            row.id,
            Text(row.phase, look.style),
            row.step or "-",
            show_time(row.started_at, style, now),
            span((row.ended_at or now) - row.started_at),
            notes.get(row.id) or " ".join([*row.conditions, *([row.error] if row.error else [])]) or "-",
        ]
        if wide:
            cells[2:2] = [str(row.version), str(row.run), show_time(row.updated_at, style, now)]
        table.append(cells)
    if table:
        draw(shell, headers, table, right={len(headers) - 2, len(headers) - 3}, elastic={1, 3 + 3 * wide})


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
