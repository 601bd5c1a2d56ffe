"""`saga batch`: what was asked of many sagas at once."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from .many import follow, tell_job, told
from .operate import DryRun, signed
from .shell import Shell

_DEFAULT_LIMIT = 50
_SHOWN = 20

Flag = Annotated[bool, Parameter(negative="", show_default=False)]

batch = App(
    name="batch", help="What was asked of many at once: list, show, pause, resume, abort.", help_format="plaintext"
)


@batch.command(name="list")
async def list_(*, limit: int = _DEFAULT_LIMIT, shell: Annotated[Shell, Parameter(parse=False)]) -> None:
    """List batches, the newest first.

    Args:
        limit: at most so many.
    """
    from .. import jobs
    from .tables import draw
    from .times import show_time

    async with shell.sagas() as database:
        rows, now = await database.read(lambda c: (jobs.every(c, limit), database.now(c)))
    if shell.machine:
        shell.json([told(row) for row in rows])
        return
    if shell.output == "id":
        shell.lines(row.job.id for row in rows)
        return
    style = shell.time or "relative"
    table = [
        [
            row.job.id,
            row.job.kind,
            row.job.state,
            f"{row.done:,}/{row.job.total:,}",
            f"{row.refused:,}",
            show_time(row.job.at, style, now),
            row.job.by,
            row.job.about or "-",
            row.job.reason or "-",
        ]
        for row in rows
    ]
    if table:
        headers = ["ID", "WHAT", "STATE", "DONE", "REFUSED", "AGE", "BY", "OF", "REASON"]
        draw(shell, headers, table, right={3, 4, 5}, elastic={7, 8})
    shell.hint(f"{len(rows)} batches" if rows else "nothing was asked of many sagas at once")


@batch.command
async def show(
    id: str,  # noqa: A002
    /,
    *,
    refused: Flag = False,
    items: Flag = False,
    watch: Annotated[bool, Parameter(name=["--watch", "-w"], negative="", show_default=False)] = False,
    timeout: float = 5.0,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Show how far a batch is.

    Args:
        id: of the batch.
        refused: also what was refused, and why.
        items: also every target, with what became of it.
        watch: until it ends.
        timeout: with --watch, how long to wait for a coordinator that moves it, seconds.
    """
    from .. import jobs
    from . import exits

    async with shell.sagas() as database:
        if watch:
            return await follow(shell, database, id, timeout)
        found = await database.read(lambda c: jobs.progress(c, id))
        wanted = refused or items
        rows = await database.read(lambda c: jobs.items(c, id, state="" if items else "refused")) if wanted else []
    if shell.machine:
        shell.json({**told(found), **({"items": [row._asdict() for row in rows]} if wanted else {})})
        return exits.OK
    tell_job(shell, found)
    shell.lines(f"  {row.target}  {row.state}{': ' + row.result if row.result else ''}" for row in rows)
    return exits.OK


@batch.command
async def pause(
    id: str,  # noqa: A002
    /,
    *,
    reason: str = "",
    dry_run: DryRun = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Ask for nothing more of a batch until it is resumed; what was asked for already is done.

    Args:
        id: of the batch.
        reason: why, for the record.
        dry_run: only show it.
    """
    await _turn(shell, id, "pause", reason, dry_run)


@batch.command
async def resume(
    id: str,  # noqa: A002
    /,
    *,
    reason: str = "",
    dry_run: DryRun = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Let a paused batch go on.

    Args:
        id: of the batch.
        reason: why, for the record.
        dry_run: only show it.
    """
    await _turn(shell, id, "resume", reason, dry_run)


@batch.command
async def abort(
    id: str,  # noqa: A002
    /,
    *,
    reason: str,
    dry_run: DryRun = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """End a batch where it is: what is not asked for yet never is.

    Args:
        id: of the batch.
        reason: why, for the record.
        dry_run: only show it.
    """
    await _turn(shell, id, "abort", reason, dry_run)


async def _turn(shell: Shell, id_: str, what: Literal["pause", "resume", "abort"], reason: str, dry_run: bool) -> None:
    from .. import jobs

    async with shell.sagas() as database:
        if not dry_run:
            await database.write(lambda c: jobs.turn(c, id_, what, signed(), database.now(c), reason=reason))
        found = await database.read(lambda c: jobs.progress(c, id_))
    tell_job(shell, found)
