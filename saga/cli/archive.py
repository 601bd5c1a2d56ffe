"""`saga archive`: ended sagas go with their whole history into an archive, and out of the store."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ...events.errors import ConfigurationError
from . import exits
from .operate import DryRun, Yes, confirm, signed
from .progress import counting
from .shell import Shell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...events.database import Database
    from ..archiving import Archiver, Due, Which

ARCHIVED = "saga.archived/v1"
_Several = Annotated[list[str] | None, Parameter(negative="", show_default=False)]


async def archive(
    *,
    to: str,
    older_than: str,
    type: _Several = None,  # noqa: A002 - the option's name
    phase: _Several = None,
    reason: Annotated[str, Parameter(show_default=False)] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Copy ended sagas with their history and commands into an archive, then take those out of the store.

    An archive is a store that no coordinator reads: list, status, history, replay --verify and the web view are asked
    of it by --store. What is in it is durable before it goes; interrupted or killed, say it again. In the store a saga
    stays as a tombstone until its retention ends, so that nothing begins anew. FAILED and open sagas stay whole, and
    children of open parents.

    For example: saga archive --older-than 30d --to /archive/2026-11.db

    Args:
        to: a SQLite file, made where there is none and added to where there is; or a store, postgresql://...
        older_than: ended so long ago: 30d, 12h; more than your topics keep, so that no late copy of an event is
            expected.
        type: of this type only.
        phase: COMPLETED, COMPENSATED or CANCELLED only.
        reason: why, for the audit.
        dry_run: only say what would go.
        yes: do not ask.
    """
    from ...events.clock import duration
    from ...events.database import redacted
    from .. import archiving

    phases = tuple(dict.fromkeys(each.upper() for each in phase or archiving.PHASES))
    wrong = [each for each in phases if each not in archiving.PHASES]
    if wrong:
        raise ConfigurationError(f"--phase {wrong[0]}: {', '.join(archiving.PHASES)} can go; others are not done with")
    before = duration(older_than)
    target = archiving.store_of(to)
    shown = redacted(target)
    async with shell.sagas() as database:
        now = await database.read(database.now)
        which = archiving.Which(now - before, tuple(type or ()), phases)
        found = await database.read(lambda c: archiving.due(c, which))
        told = _told(database, shown, "dry-run", found)
        number = sum(each.sagas for each in found)
        if not number and not shell.machine:
            shell.hint(f"no saga that ended more than {older_than} ago has a history here: nothing to archive")
            return exits.OK
        if dry_run or not number:
            _tell(shell, told if dry_run else told | {"state": "done"}, found)
            return exits.OK
        if not yes:
            confirm(f"archive {number:,} sagas to {shown} and take their histories out of {database.url}")
        opened = await archiving.open_archive(target, database)
        try:
            archiver = archiving.Archiver(database, opened, which)
            ended = await _move(shell, archiver, number, reason)
        finally:
            await opened.close()
        done = archiver.done
        told |= {"state": "done" if ended else "interrupted", "sagas": done.sagas, "rows": done.rows}
        told |= {
            "children": done.children,
            "changed": done.changed,
            "free_bytes": await database.read(archiving.free_bytes),
        }
        _tell(shell, told, found)
    return exits.OK if ended else exits.INTERRUPTED


async def _move(shell: Shell, archiver: Archiver, number: int, reason: str) -> bool:
    """Move everything, between two rows of the audit; tell whether nobody interrupted it."""
    from ...events.ids import new_id
    from .. import audit

    which, id_ = archiver.which, new_id()

    async def record(outcome: str, **more: Any) -> None:
        details = {"archive": archiver.archive.url, **_words(which), **more}
        await archiver.source.write(
            lambda c: audit.record(
                c, "archive", signed(), outcome=outcome, target="store", reason=reason, details=details, command_id=id_
            )
        )

    await record(audit.ASKED, sagas=number)
    with counting(shell, "archiving", number) as bar, _interruptible() as interrupted:

        def go_on(gone: int) -> bool:
            bar(gone)
            return not interrupted

        ended = True
        for phase in which.phases:
            ended = ended and not interrupted and await archiver.phase(phase, go_on)
    await record(audit.DONE, sagas=archiver.done.sagas, rows=archiver.done.rows, interrupted=not ended)
    return ended


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Let the first Ctrl-C end what is done in steps after its present one; give the list that it is noted in."""
    noted, before = list[int](), signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        noted.append(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the second one ends it at once

    # Not the loop's handler, which has no turn while steps follow one another on a store that answers on the spot.
    with suppress(ValueError):  # not the main thread: somebody else hears signals
        signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        with suppress(ValueError):
            signal.signal(signal.SIGINT, before)


def _words(which: Which) -> dict[str, Any]:
    from ..report import rfc3339

    return {"before": rfc3339(which.before), "types": list(which.types), "phases": list(which.phases)}


def _told(database: Database, to: str, state: str, found: Sequence[Due]) -> dict[str, Any]:
    from ..report import rfc3339

    return {
        "schema": ARCHIVED,
        "state": state,
        "store": database.url,
        "archive": to,
        "due": [{**each._asdict(), "first_at": rfc3339(each.first_at)} for each in found],
        "sagas": 0,
        "rows": 0,
        "children": 0,
        "changed": 0,
        "free_bytes": None,
    }


def _tell(shell: Shell, told: dict[str, Any], found: Sequence[Due]) -> None:
    from .tables import draw
    from .times import show_time

    if shell.machine:
        shell.json(told)
        return
    rows = [
        [d.type, d.phase, f"{d.sagas:,}", f"{d.rows:,}", show_time(d.first_at, shell.time or "local", 0)] for d in found
    ]
    draw(shell, ["TYPE", "PHASE", "SAGAS", "INPUTS", "FIRST"], rows, right={2, 3})
    if told["state"] == "dry-run":
        shell.hint("nothing was done (--dry-run)")
        return
    more = f" · {told['children']:,} children of open parents stay" if told["children"] else ""
    more += f" · {told['changed']:,} changed meanwhile and stay; say it again" if told["changed"] else ""
    shell.lines([f"{told['sagas']:,} sagas with {told['rows']:,} inputs archived to {told['archive']}{more}"])
    if told["state"] == "interrupted":
        shell.hint("interrupted: what was archived is whole, say it again for the rest")
    if told["sagas"]:
        shell.hint(f"ask it with --store: saga list --all --store {told['archive']}")
    if told["free_bytes"]:
        shell.hint(
            f"{told['free_bytes']:,} bytes of the store's file are free and will be used again; to have them back "
            "stop the coordinators and VACUUM it"
        )
