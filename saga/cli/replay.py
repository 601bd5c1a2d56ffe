"""`saga replay`: fold histories again and compare with what is stored (S3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ...events.errors import ConfigurationError
from . import exits
from .progress import counting
from .shell import Shell
from .suggesting import SagaName

if TYPE_CHECKING:
    from ...events.database import Database
    from ..difference import Difference
    from ..recorded import Recorded, Which

_SHOWN = 100


async def replay(
    saga: SagaName = "",
    /,
    *,
    verify: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    type: list[str] | None = None,  # noqa: A002 - the option's name
    since: str = "",
    open: Annotated[bool, Parameter(negative="", show_default=False)] = False,  # noqa: A002
    all: Annotated[bool, Parameter(negative="", show_default=False)] = False,  # noqa: A002
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Fold the history of a saga again, through the versions that it ran under. Nothing is changed.

    Without --verify it shows each input with what comes of it. With it, decisions, state and commands are compared with
    what the store has, and the first difference is told; the exit code is then 1.

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        verify: compare; also for many, chosen by --type, --since, --open or --all.
        type: sagas of this type.
        since: started at or after this: 1h (ago), a date, or RFC 3339.
        open: sagas that have not ended.
        all: all of them.
    """
    from ...events.clock import system_clock
    from .. import recorded
    from .status import find
    from .times import moment

    many = bool(type or since or open or all)
    if bool(saga) == many:
        raise ConfigurationError("name a saga, or choose several with --type, --since, --open or --all")
    if many and not verify:
        raise ConfigurationError("several sagas can only be compared: add --verify")
    async with shell.sagas() as database:
        if saga:
            id_ = await find(database, saga)
            if not verify:
                [found] = await database.read(lambda connection: recorded.read(connection, [id_]))
                if found.erased:
                    raise ConfigurationError(f"what was said in {id_} was erased: there is nothing to fold again")
                if found.forgotten:
                    raise ConfigurationError(recorded.history_gone(id_))
                await _show(shell, database, found)
                return exits.OK
            which = recorded.Which(ids=(id_,))
        else:
            at = moment(since, system_clock(), "--since") if since else None
            which = recorded.Which(types=type or (), since=at, only_open=open)
        return await _verify(shell, database, which)


async def _verify(shell: Shell, database: Database, which: Which) -> int:
    from .. import recorded
    from ..definition import Definition
    from ..difference import recorded as compared

    total = await database.read(lambda connection: recorded.count(connection, which))
    known: dict[str, dict[int, Definition]] = {}
    shown: list[dict[str, Any]] = []
    differing = verified = forgotten = erased = 0
    after = ""
    with counting(shell, "replaying", total) as tell:
        while page := await database.read(lambda c: recorded.page(c, which, after=after)):  # noqa: B023 - read at once
            after = page[-1].instance.id
            for each in page:
                if each.erased or each.forgotten:
                    erased += each.erased
                    forgotten += not each.erased
                    continue
                type_ = each.instance.type
                if type_ not in known:
                    known[type_] = await database.read(lambda c: recorded.definitions_of(c, type_))  # noqa: B023
                difference = compared(each, known[type_])
                verified += 1
                if difference is not None:
                    differing += 1
                    if len(shown) < _SHOWN:
                        shown.append(told(each.instance.id, difference))
            tell(verified + forgotten + erased)
    if shell.machine:
        counts = {"verified": verified, "differing": differing, "forgotten": forgotten, "erased": erased}
        shell.json({"schema": "saga.replay/v1", **counts, "differences": shown})
    elif shell.output == "id":
        shell.lines(each["id"] for each in shown)
    else:
        shell.lines(line(each) for each in shown)
        more = f"; the first {len(shown)} are shown" if differing > len(shown) else ""
        gone = f" · {forgotten:,} ended so long ago that their history is gone" if forgotten else ""
        gone += f" · {erased:,} erased" if erased else ""
        shell.lines([f"{verified:,} replayed · {verified - differing:,} the same · {differing:,} differ{more}{gone}"])
    return exits.ERROR if differing else exits.OK


def told(id_: str, difference: Difference) -> dict[str, Any]:
    """Tell a difference as JSON."""
    return {"schema": "saga.difference/v1", "id": id_, **difference._asdict()}


def line(told: dict[str, Any]) -> str:
    """Tell a difference in one line."""
    where = f"seq {told['seq']}" + (f", step {told['step']}" if told["step"] else "")
    return f"{told['id']}  {where}: {told['what']} was {told['was']}, now {told['now']}"


async def _show(shell: Shell, database: Database, found: Recorded) -> None:
    """Show each input with what comes of it."""
    from .. import recorded
    from ..inputs import Announce, Ask, Tell, input_id
    from ..replay import refold
    from ..report import rfc3339
    from .times import show_time

    instance = found.instance
    known = await database.read(lambda connection: recorded.definitions_of(connection, instance.type))
    now = await database.read(database.now)
    rows: list[dict[str, Any]] = []
    for applied, transition in refold(known, instance.version, found.beginning, found.inputs):
        outputs = [f"{each.kind}=" if isinstance(each, Ask) else each.type for each in transition.outputs]
        kinds = [
            "announce" if isinstance(each, Announce) else "tell" if isinstance(each, Tell) else each.kind
            for each in transition.outputs
        ]
        rows.append(
            {
                "seq": applied.seq,
                "at": rfc3339(applied.at),
                "input": getattr(applied.input, "type", None) or applied.input.__class__.__name__,
                "input_id": input_id(applied.input, applied.seq),
                "verdict": transition.verdict,
                "reason": transition.reason or None,
                "phase": transition.instance.phase.value,
                "changes": [{"step": c.step, "state": c.state, "reason": c.reason or None} for c in transition.changes],
                "outputs": [{"kind": kind, "type": type_} for kind, type_ in zip(kinds, outputs, strict=True)],
            }
        )
    if shell.machine:
        shell.json({"schema": "saga.replayed/v1", "id": instance.id, "version": instance.version, "inputs": rows})
        return
    for applied, row in zip(found.inputs, rows, strict=True):
        changes = [f"{c['step'] or 'saga'} {c['state']}" for c in row["changes"]] or [str(row["reason"] or "nothing")]
        sent = "".join(f"  → {output['type']}" for output in row["outputs"])
        at = show_time(applied.at, shell.time or "local", now)
        shell.lines([f"{row['seq']:>3}  {at}  {row['input']}: {', '.join(changes)}{sent}"])
