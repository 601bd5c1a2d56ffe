"""`saga audit`: who changed what, when and why, and whether that record still holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from ...events.errors import ConfigurationError, SagaNotFound
from . import exits
from .shell import Shell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..audit import Row, Verdict

AUDIT = "saga.audit/v1"
VERIFIED = "saga.audit-verified/v1"
_DEFAULT_LIMIT = 50

Text = Annotated[str, Parameter(show_default=False)]
Flag = Annotated[bool, Parameter(negative="", show_default=False)]

audit = App(name="audit", help="Who changed what, when and why: list, show, verify, export.", help_format="plaintext")


@audit.command(name="list")
async def list_(
    target: str = "",
    /,
    *,
    by: Text = "",
    action: Text = "",
    outcome: Text = "",
    since: Text = "",
    until: Text = "",
    limit: int = _DEFAULT_LIMIT,
    all: Flag = False,  # noqa: A002 - the option's name
    unfolded: Flag = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """List changes, the newest first. What was asked for is left out once another row says what became of it.

    For example: saga audit list fulfilment/4711 --since 1d

    Args:
        target: only those about this: a saga's name, its type or its key, or the id of something else.
        by: of this person.
        action: of this kind: cancel, pause, retry, erase, ...
        outcome: asked, applied, refused or done.
        since: 1h, a date or RFC 3339.
        until: before this.
        limit: at most so many.
        all: no limit.
        unfolded: also each asking.
    """
    from ...events.clock import system_clock
    from .. import audit as audits
    from .times import moment

    now = system_clock()
    wanted = audits.Wanted(
        target=target,
        by=by,
        action=action,
        outcome=outcome,
        since=moment(since, now, "--since") if since else None,
        until=moment(until, now, "--until") if until else None,
        unfolded=unfolded,
    )
    async with shell.sagas() as database:
        rows = await database.read(lambda c: audits.read(c, wanted, limit=None if all else limit))
    if shell.machine:
        shell.json([told(row) for row in rows])
    elif shell.output == "id":
        shell.lines(str(row.seq) for row in rows)
    else:
        _draw(shell, rows)
        shell.hint(f"{len(rows):,} changes · saga audit show N · saga audit verify" if rows else "nothing was changed")


@audit.command
async def show(number: int, /, *, shell: Annotated[Shell, Parameter(parse=False)]) -> None:
    """Show one change with its details and its hash.

    Args:
        number: its place, as `saga audit list` has it.
    """
    from .. import audit as audits
    from ..report import rfc3339

    async with shell.sagas() as database:
        row = await database.read(lambda c: audits.find(c, number))
    if row is None:
        raise SagaNotFound(f"the audit has no row {number}; saga audit list shows them")
    if shell.machine:
        shell.json(told(row))
        return
    lines = [f"{row.seq}  {row.action} {row.target or ''}  {row.outcome}", f"  at       {rfc3339(row.at)}"]
    lines += [f"  by       {person(row)}", *([f"  token    {row.token}"] if row.token else [])]
    if row.sealed is None:
        lines.append("  reason and details were erased")
    else:
        lines += [
            f"  reason   {row.reason or '-'}",
            *(f"  {name:8} {text(each)}" for name, each in row.details.items()),
        ]
    lines += [*([f"  command  {row.command_id}"] if row.command_id else []), f"  hash     {row.hash}"]
    shell.lines(lines)


@audit.command
async def verify(*, file: Path | None = None, head: Text = "", shell: Annotated[Shell, Parameter(parse=False)]) -> int:
    """Check that no change was altered, taken out or put in; the first row that does not hold is named.

    Who can write to the store can make a whole new chain, or cut its end off: keep the hash that this prints somewhere
    else, and give it as --head next time.

    Args:
        file: check an export instead of the store.
        head: a hash that was kept: it must be in the chain.
    """
    from .. import audit as audits

    if file is not None:
        verdict = audits.verify(_exported(file), head=head)
    else:
        async with shell.sagas() as database:
            verdict = await database.read(lambda c: audits.verify(audits.chain(c), head=head))
    broken = verdict.broken
    if shell.machine:
        shell.json(told_verdict(verdict))
    elif broken is not None:
        shell.lines([f"the audit does not hold: row {broken.seq}: {broken.why}"])
    else:
        erased = f", {verdict.erased:,} of them without reason and details, which were erased" if verdict.erased else ""
        shell.lines([f"the audit holds: {verdict.rows:,} rows{erased}", f"head {verdict.head}"])
    return exits.OK if broken is None else exits.ERROR


@audit.command
async def export(file: Path, /, *, shell: Annotated[Shell, Parameter(parse=False)]) -> None:
    """Write every row to a file as JSON lines, so that `saga audit verify --file` can check it anywhere.

    Args:
        file: which; it must not exist.
    """
    from .. import audit as audits

    async with shell.sagas() as database:
        rows = await database.read(lambda c: list(audits.chain(c)))
    try:
        out = file.open("x", encoding="utf-8")
    except OSError as failed:
        raise ConfigurationError(f"cannot write {file}: {failed.strerror or failed}") from None
    with out:
        before = audits.FIRST
        for row in rows:
            out.write(json.dumps(audits.told(row, before), ensure_ascii=False) + "\n")
            before = row.hash
    shell.hint(f"{len(rows):,} rows written to {file}; they name people, and say why they did what they did")


def _exported(file: Path) -> Iterator[Row]:
    from .. import audit as audits

    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield audits.from_export(json.loads(line))
                except (ValueError, KeyError, TypeError):
                    told = f"{file}:{number} is no row of an audit; saga audit export writes them"
                    raise ConfigurationError(told) from None
    except (OSError, UnicodeDecodeError) as failed:
        raise ConfigurationError(f"cannot read {file}: {failed}") from None


def _draw(shell: Shell, rows: Iterable[Row]) -> None:
    from ...events.clock import system_clock
    from .tables import draw
    from .times import show_time

    now, style = system_clock(), shell.time or "relative"
    cells = [
        [
            str(row.seq),
            show_time(row.at, style, now),
            person(row),
            row.action,
            row.target or "-",
            row.outcome,
            "(erased)" if row.sealed is None else row.reason or "-",
        ]
        for row in rows
    ]
    if cells:
        headers = ["N", "AGE" if style == "relative" else "AT", "WHO", "DID", "TO", "OUTCOME", "REASON"]
        draw(shell, headers, cells, right={0, 1}, elastic={2, 4, 6})


def person(row: Row) -> str:
    """Say who it was, where, and through what."""
    where = " ".join(filter(None, (row.host and f"on {row.host}", row.via and f"by {row.via}")))
    return f"{row.by} {where}".strip()


def told(row: Row) -> dict[str, Any]:
    """Tell a row as JSON has it (`saga.audit/v1`)."""
    from ..report import rfc3339

    return {
        "schema": AUDIT,
        "seq": row.seq,
        "at": rfc3339(row.at),
        "action": row.action,
        "target": row.target,
        "by": row.by,
        "host": row.host or None,
        "via": row.via or None,
        "token": row.token or None,
        "outcome": row.outcome,
        "command_id": row.command_id,
        "erased": row.sealed is None,
        "reason": row.reason or None,
        "details": dict(row.details),
        "hash": row.hash,
    }


def told_verdict(verdict: Verdict) -> dict[str, Any]:
    """Tell whether the audit holds, as JSON has it (`saga.audit-verified/v1`)."""
    return {
        "schema": VERIFIED,
        "holds": verdict.broken is None,
        "rows": verdict.rows,
        "erased": verdict.erased,
        "head": verdict.head,
        "broken": None if verdict.broken is None else verdict.broken._asdict(),
    }


def text(value: Any) -> str:
    """Write a detail as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
