"""What a saga that waits for a person is told: `saga approve`, `saga reject`, `saga dismiss`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from .operate import USUAL, Way, on_saga
from .shell import Shell
from .suggesting import SagaName


async def approve(
    saga: SagaName,
    step: str = "",
    /,
    *,
    reason: str = "",
    by: str = "",
    way: Way = USUAL,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Approve a step that waits for a person.

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        step: which; not needed where only one waits.
        reason: why, for the record.
        by: who approves it; default: the user of this machine.
    """
    return await on_saga(shell, "approve", saga, reason, way, step, by)


async def reject(
    saga: SagaName,
    step: str = "",
    /,
    *,
    reason: str,
    by: str = "",
    way: Way = USUAL,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Reject a step that waits for a person: it has failed, and the saga is undone.

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        step: which; not needed where only one waits.
        reason: why, for the record.
        by: who rejects it; default: the user of this machine.
    """
    return await on_saga(shell, "reject", saga, reason, way, step, by)


async def dismiss(
    saga: SagaName,
    /,
    *,
    reason: str,
    by: str = "",
    way: Way = USUAL,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Say that the events about which a saga asks are of no importance: it stays as it is.

    To undo it because of them, say `saga cancel`.

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        reason: why, for the record.
        by: who says so; default: the user of this machine.
    """
    return await on_saga(shell, "dismiss", saga, reason, way, "", by)
