"""`saga dlq`: dead letters, one by one or many by filter: read, taken away as a file, sent again, mended, settled."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from ...events.errors import ConfigurationError
from .letterbox import Flag, Text, Topics, body_of, broker, draw_letters, headers_of, matching, pick, read, told
from .shell import Shell

_DEFAULT_LIMIT = 50

dlq = App(name="dlq", help="Read, retry, mend and settle dead letters.", help_format="plaintext")


@dlq.command(name="list")
async def list_(
    *,
    topic: Topics = (),
    service: Text = "",
    saga: Text = "",
    type: Text = "",  # noqa: A002 - the option's name
    step: Text = "",
    error: Text = "",
    since: Text = "",
    settled: Flag = False,
    limit: int = _DEFAULT_LIMIT,
    all: Flag = False,  # noqa: A002 - the option's name
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """List dead letters, the newest first; those that were settled are left out.

    For example: saga dlq list --service billing --since 1h

    Args:
        topic: of the event or of the dead letters; several may be named.
        service: who gave up.
        saga: type/key.
        type: of the event.
        step: of the saga.
        error: text in the error's class or message.
        since: 1h, a date or RFC 3339.
        settled: also those that were retried, skipped or discarded.
        limit: at most so many.
        all: no limit.
    """
    wanted = matching(service=service, saga=saga, type_=type, step=step, error=error, since=since, settled=settled)
    async with broker(shell) as transport:
        found = [each for each in await read(transport, topic) if wanted(each)]
    shown = found if all else found[:limit]
    if shell.machine:
        shell.json([told(each) for each in shown])
        return
    if shell.output == "id":
        shell.lines(each.letter.id for each in shown)
        return
    draw_letters(shell, shown)
    more = f"{len(shown):,} of {len(found):,} · " if len(shown) < len(found) else ""
    shell.hint(f"{more}saga dlq show ID · saga dlq retry ID --reason ..." if found else "no dead letters")


@dlq.command
async def show(
    id: str,  # noqa: A002
    /,
    *,
    reveal: Flag = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Show one dead letter: who gave up, why and where, its headers, its body decoded, and how its schema has changed.

    Args:
        id: of the letter, or the beginning of it.
        reveal: show secrets in the clear; what is encrypted needs its key (CHOREO_KEYS).
    """
    from .bodies import changed_since
    from .schema import change_line

    async with broker(shell) as transport:
        filed = pick(await read(transport, ()), id)
        body, problem = await body_of(shell, transport, filed.letter, reveal)
        differences = await changed_since(shell.settings, transport, filed.letter)
    shown = {
        **told(filed),
        "headers": headers_of(filed.letter),
        "schema_changes": [asdict(each) for each in differences],
        "body": body,
        "body_error": problem,
    }
    if shell.machine:
        shell.json(shown)
        return
    letter = filed.letter
    lines = [
        f"{letter.id}  {filed.state}",
        f"  event    {letter.type or '-'} {letter.event_id}  key {letter.key or '-'}",
        f"  from     {letter.target} by {letter.service}{'.' + letter.handler if letter.handler else ''}",
        f"  because  {letter.error}: {letter.message} (attempts {letter.attempts}, sent again {letter.replays} times)",
        *([f"  at       {stack}"] if (stack := headers_of(letter).get("dlq-stack")) else []),
        f"  saga     {letter.saga or '-'}{' step ' + letter.step if letter.step else ''}",
    ]
    if filed.settled is not None:
        lines.append(
            f"  settled  {filed.settled.state} by {filed.settled.by} at {filed.settled.at}: {filed.settled.reason}"
        )
    lines += [f"  schema   since then: {change_line(each)}" for each in differences]
    lines += [f"  header   {name}: {value}" for name, value in headers_of(letter).items()]
    lines += [
        "",
        *(json.dumps(body, indent=2, ensure_ascii=False, default=str).splitlines() if problem is None else [problem]),
    ]
    shell.lines(lines)
    if filed.settled is None:
        shell.hint(f"next  saga dlq retry {letter.id} --reason ... · saga dlq edit {letter.id} --reason ...")


@dlq.command
async def export(
    file: Path,
    /,
    *,
    topic: Topics = (),
    service: Text = "",
    error: Text = "",
    since: Text = "",
    settled: Flag = False,
    reveal: Flag = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Write dead letters to a file as JSON lines, bodies decoded where they can be.

    Args:
        file: which; it must not exist.
        topic: of the event or of the dead letters.
        service: who gave up.
        error: text in the error's class or message.
        since: 1h, a date or RFC 3339.
        settled: also those that were retried, skipped or discarded.
        reveal: write secrets in the clear; what is encrypted needs its key (CHOREO_KEYS).
    """
    wanted = matching(service=service, error=error, since=since, settled=settled)
    async with broker(shell) as transport:
        found = [each for each in await read(transport, topic) if wanted(each)]
        try:
            out = file.open("x", encoding="utf-8")
        except OSError as failed:
            raise ConfigurationError(f"cannot write {file}: {failed.strerror or failed}") from None
        with out:
            for each in found:
                body, problem = await body_of(shell, transport, each.letter, reveal)
                line = {**told(each), "headers": headers_of(each.letter), "body": body, "body_error": problem}
                out.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
    shell.hint(f"{len(found):,} dead letters written to {file}; they hold payloads")


for _name, _help in (
    ("retry", "Give dead letters to the handlers that gave them up once more."),
    ("edit", "Mend a dead letter's body and send it again."),
    ("skip", "Settle a dead letter, and publish the event that its handler would have."),
    ("discard", "Settle dead letters for which nothing shall be done."),
):
    dlq.command(f"{__package__}.redriving:{_name}", name=_name, help=_help)
