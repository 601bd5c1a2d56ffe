"""One saga, or many by filter: what changing commands are about, and the batch that many become."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ...events.errors import ConfigurationError
from . import exits
from .operate import Way, ask, confirm, signed
from .progress import counting
from .shell import Shell

if TYPE_CHECKING:
    from ...events.database import Database
    from ..inputs import OperatorKind
    from ..jobs import Progress

BATCH = "saga.batch/v1"
RATE = 50
_SAMPLE = 3
_POLL = 0.1

_Several = Annotated[list[str] | None, Parameter(negative="", show_default=False)]
_Text = Annotated[str, Parameter(show_default=False)]
_Flag = Annotated[bool, Parameter(negative="", show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Many sagas, by filter, in place of one.

    Args:
        type: all of this type.
        state: in this phase, or PAUSED.
        condition: to which this applies.
        step: of which something is expected at this step.
        error: with this in their error.
        since: started at or after this: 1h (ago), a date, or RFC 3339.
        until: started before this.
        failed: FAILED, or waiting for a person.
        all_open: every saga that has not ended.
        rate: at most so many per second.
    """

    type: _Several = None
    state: Annotated[list[str] | None, Parameter(name=["--state", "--phase"], negative="", show_default=False)] = None
    condition: _Several = None
    step: Annotated[list[str] | None, Parameter(name="--at-step", negative="", show_default=False)] = None
    error: _Text = ""
    since: _Text = ""
    until: _Text = ""
    failed: _Flag = False
    all_open: _Flag = False
    rate: int = RATE

    def any(self) -> bool:
        """Whether anything is said at all."""
        given = (self.type, self.state, self.condition, self.step, self.error, self.since, self.until)
        return any(given) or self.failed or self.all_open

    def words(self) -> str:
        """Say it again, for the record."""
        told = []
        for name in ("type", "state", "condition", "step"):
            told += [f"--{'at-step' if name == 'step' else name} {each}" for each in getattr(self, name) or ()]
        told += [f"--{name} {value}" for name in ("error", "since", "until") if (value := getattr(self, name))]
        return " ".join([*told, *(["--failed"] if self.failed else []), *(["--all-open"] if self.all_open else [])])


async def on_sagas(
    shell: Shell,
    kind: OperatorKind,
    saga: str,
    chosen: Chosen | None,
    reason: str,
    way: Way,
    *,
    only_open: bool = True,
    step: str = "",
) -> int:
    """Ask something of one saga, or of all that a filter chooses, as a batch.

    Args:
        shell: where to tell it.
        kind: what is asked.
        saga: the one that is meant; "" where a filter chooses.
        chosen: the filter.
        reason: why.
        way: how.
        only_open: an ended saga is never meant.
        step: of the saga.

    Raises:
        Refused: the state of the one saga does not permit it.
        ConfigurationError: nothing, or both, is said.
    """
    from .status import find

    chosen = chosen if chosen is not None else Chosen()
    if bool(saga) == chosen.any():
        raise ConfigurationError(
            f"saga {kind}: name one saga, or a filter such as --type and --state"
            + ("; not both" if saga else " for many")
        )
    async with shell.sagas() as database:
        if saga:
            id_ = await find(database, saga)
            await _check_step(database, id_, step)
            if way.dry_run:
                return await _tell_dry(shell, database, kind, [id_], reason, step, single=True)
            asked = {"step": step} if step else {}
            return await ask(shell, database, kind, id_, reason, way, **asked)
        if chosen.rate < 1:
            raise ConfigurationError(f"--rate {chosen.rate}: write 1 or more per second")
        names = await _names(database, chosen, only_open)
        if way.dry_run:
            return await _tell_dry(shell, database, kind, names, reason, step)
        if not names:
            return _tell_none(shell, kind)
        if not way.sure:
            confirm(f"{kind}: {len(names):,} sagas, {sample(names)}")
        return await _as_batch(shell, database, kind, names, chosen, reason, way.timeout, step)


def sample(names: Sequence[str]) -> str:
    """Name a few of many."""
    more = f" and {len(names) - _SAMPLE:,} more" if len(names) > _SAMPLE else ""
    return ", ".join(names[:_SAMPLE]) + more


async def _check_step(database: Database, id_: str, step: str) -> None:
    from .. import queries

    found = await database.read(lambda connection: queries.load(connection, id_))
    if step and step not in found.instance.steps:
        raise ConfigurationError(f"{id_} has no step {step!r}; it has {', '.join(found.instance.steps)}")


async def _names(database: Database, chosen: Chosen, only_open: bool) -> list[str]:
    from ...events.clock import system_clock
    from .. import queries
    from ..pause_report import PAUSED
    from ..words import Condition
    from .listing import _conditions, _words
    from .times import moment

    now = system_clock()
    states = [each.upper() for each in chosen.state or ()]
    held = [Condition.HELD.value] if PAUSED in states else []
    wanted = queries.Filter(
        types=chosen.type or (),
        phases=_words([each for each in states if each != PAUSED], "--state"),
        conditions=[*_conditions(chosen.condition), *held],
        steps=chosen.step or (),
        since=moment(chosen.since, now, "--since") if chosen.since else None,
        until=moment(chosen.until, now, "--until") if chosen.until else None,
        error=chosen.error,
        only_open=chosen.all_open or only_open,
        only_failed=chosen.failed,
    )
    rows = await database.read(lambda c: queries.list_sagas(c, wanted, sort="started", limit=None))
    rows.sort(key=lambda row: (row.started_at, row.id))
    return [row.id for row in rows]


async def _as_batch(
    shell: Shell,
    database: Database,
    kind: OperatorKind,
    names: Sequence[str],
    chosen: Chosen,
    reason: str,
    timeout: float,
    step: str,
) -> int:
    from ...events.ids import new_id
    from .. import jobs

    id_ = f"b-{new_id()[-12:]}"
    await database.write(
        lambda c: jobs.create(
            c,
            id_,
            kind,
            names,
            signed(),
            reason=reason,
            about=chosen.words(),
            rate=chosen.rate,
            now=database.now(c),
            arguments={"step": step} if step else {},
        )
    )
    shell.hint(f"batch {id_}: {len(names):,} sagas, at most {chosen.rate}/s; it goes on without this command")
    return await follow(shell, database, id_, timeout)


async def follow(shell: Shell, database: Database, id_: str, timeout: float) -> int:
    """Watch a batch until it ends, or until nobody has moved it for `timeout` seconds; give the exit code."""
    from .. import jobs

    loop = asyncio.get_running_loop()
    found = await database.read(lambda c: jobs.progress(c, id_))
    deadline = loop.time() + timeout
    with counting(shell, f"{found.job.kind} {id_}", found.job.total) as tell:
        while found.job.state == "running" and loop.time() < deadline:
            await asyncio.sleep(_POLL)
            before, found = found, await database.read(lambda c: jobs.progress(c, id_))
            if found.done != before.done:
                tell(found.done)
                deadline = loop.time() + timeout
    tell_job(shell, found)
    if found.job.state == "running":
        return exits.TIMED_OUT if timeout > 0 else exits.OK
    return exits.NOT_ALLOWED if found.refused and not found.applied else exits.OK


def tell_job(shell: Shell, found: Progress) -> None:
    """Print how far a batch is."""
    if shell.machine:
        shell.json(told(found))
        return
    job = found.job
    if shell.output == "id":
        shell.lines([job.id])
        return
    refused = f", {found.refused:,} refused" if found.refused else ""
    open_ = found.pending + found.asked
    left = f", {open_:,} not yet" if open_ else ""
    shell.lines([f"batch {job.id}: {job.kind}, {job.state}: {found.applied:,} of {job.total:,} applied{refused}{left}"])
    if found.refused:
        shell.hint(f"why: saga batch show {job.id} --refused")
    elif job.state == "running":
        shell.hint(f"a coordinator works it off; saga batch show {job.id} · saga batch pause {job.id}")


def told(found: Progress) -> dict[str, Any]:
    """Tell a batch as JSON has it."""
    from ..report import rfc3339

    job = found.job
    return {
        "schema": BATCH,
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "about": job.about,
        "by": job.by,
        "reason": job.reason or None,
        "rate": job.rate,
        "total": job.total,
        "applied": found.applied,
        "refused": found.refused,
        "pending": found.pending + found.asked,
        "at": rfc3339(job.at),
        "done_at": rfc3339(job.done_at),
    }


def _tell_none(shell: Shell, kind: str) -> int:
    if shell.machine:
        shell.json([])
    shell.hint(f"{kind}: no saga is meant")
    return exits.OK


async def _tell_dry(
    shell: Shell,
    database: Database,
    kind: OperatorKind,
    names: Sequence[str],
    reason: str,
    step: str,
    *,
    single: bool = False,
) -> int:
    """Play it on the sagas as they stand, and say what would come of it; of a single one as of a command."""
    from .. import queries
    from ..preview import tried

    now = await database.read(database.now)
    found = await database.read(lambda c: queries.states(c, names))
    rows = []
    for name in names:
        there = found.get(name)
        if there is not None:
            refused, what = tried(there.definition, there.instance, kind, step or None, signed().by, reason, now)
            rows.append({"schema": "saga.tried/v1", "id": name, "kind": kind, "refused": refused, "changes": what})
    if shell.machine and single:
        command = {"schema": "saga.command/v1", "command_id": None, "kind": kind, "id": names[0], "state": "dry-run"}
        shell.json({**command, "result": _said(rows[0])})
    elif shell.machine:
        shell.json(rows)
    elif shell.output == "id":
        shell.lines(str(row["id"]) for row in rows if not row["refused"])
    else:
        shown = rows if len(rows) <= 10 else rows[:10]
        shell.lines(f"{kind} {row['id']}: " + _said(row) for row in shown)
        would = sum(not row["refused"] for row in rows)
        shell.hint(f"{would:,} of {len(rows):,} would be changed; nothing was asked (--dry-run)")
    return exits.NOT_ALLOWED if len(rows) == 1 and rows[0]["refused"] else exits.OK


def _said(row: dict[str, Any]) -> str:
    if row["refused"]:
        return f"would be refused: {row['refused']}"
    return "; ".join(row["changes"]) or "would change nothing to be seen"


def needs_reason(kind: str, reason: str) -> None:
    """Refuse to go on without a reason.

    Raises:
        ConfigurationError: it is empty.
    """
    if not reason.strip():
        raise ConfigurationError(f"--reason: why {kind}? it stands in the record")
