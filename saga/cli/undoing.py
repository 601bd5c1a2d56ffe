"""`saga cancel`, `retry-undo`, `mark-undone`: what people ask of compensation."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from ...events.errors import ConfigurationError
from . import exits
from .many import Chosen, needs_reason, on_sagas
from .operate import USUAL, USUAL_FOR_MANY, DryRun, Way, WayForMany
from .shell import Shell
from .suggesting import SagaName


async def cancel(
    saga: SagaName = "",
    /,
    *,
    reason: str = "",
    plan: DryRun = False,
    chosen: Chosen | None = None,
    way: WayForMany = USUAL_FOR_MANY,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Undo a saga on request. After its pivot that is refused.

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        reason: why, for the record; needed unless only the plan is asked for.
        plan: only say what would be undone, in which order, or why it would be refused.
    """
    if plan:
        if not saga:
            raise ConfigurationError("--plan: of which saga? name one; --dry-run tells of many")
        return await _show_plan(shell, saga)
    if not reason.strip():
        raise ConfigurationError(
            "--reason: why is it cancelled? it stands in the record; --plan only shows what happens"
        )
    return await on_sagas(shell, "cancel", saga, chosen, reason, way)


async def _show_plan(shell: Shell, saga: str) -> int:
    from .. import queries
    from ..preview import cancel_plan

    async with shell.sagas() as database:
        id_ = await database.read(lambda connection: queries.resolve(connection, saga))
        found = await database.read(lambda connection: queries.load(connection, id_))
        told = cancel_plan(found.definition, found.instance, await database.read(database.now))
    if shell.machine:
        waves = [
            [{"step": undo.step, "command": undo.command, "certain": undo.certain} for undo in wave]
            for wave in told.waves
        ]
        plan = {"refused": told.refused, "waves": waves, "untouched": list(told.untouched)}
        shell.json({"schema": "saga.cancel-plan/v1", "id": id_, **plan})
    elif told.refused is not None:
        shell.lines([f"{id_}: {told.refused}"])
    else:
        shell.lines([f"saga cancel {id_} would" + ("" if told.waves else " end it; there is nothing to undo")])
        for number, wave in enumerate(told.waves, start=1):
            sent = " and ".join(
                f"undo {undo.step} with {undo.command}"
                + ("" if undo.certain else " (whether it happened is not known)")
                for undo in wave
            )
            shell.lines([f"  {number}. {sent}"])
        if told.untouched:
            shell.lines([f"  and leave {', '.join(told.untouched)} as it is: nothing to undo was declared"])
    return exits.NOT_ALLOWED if told.refused is not None else exits.OK


async def retry_undo(
    saga: SagaName = "",
    /,
    *,
    step: str = "",
    reason: str = "",
    chosen: Chosen | None = None,
    way: WayForMany = USUAL_FOR_MANY,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Try an undo again that failed for good.

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        step: whose undo; default: every one that failed.
        reason: why, for the record.
    """
    return await on_sagas(
        shell,
        "retry-undo",
        saga,
        chosen,
        reason,
        way,
        only_open=False,
        step=step,
    )


async def mark_undone(
    saga: SagaName,
    /,
    *,
    reason: str,
    step: str = "",
    way: Way = USUAL,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Record that a person has undone a step whose undo failed.

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        step: which; default: every one whose undo failed.
        reason: what was done, for the record.
    """
    needs_reason("is it undone", reason)
    return await on_sagas(shell, "mark-undone", saga, None, reason, way, step=step)
