"""`saga pause`, `resume`, `retry`, `skip`: what a person does to sagas that are under way, one or many."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from ...events.errors import ConfigurationError
from .many import Chosen, needs_reason, on_sagas
from .operate import USUAL_FOR_MANY, WayForMany, on_all
from .shell import Shell
from .suggesting import SagaName


async def pause(
    saga: SagaName = "",
    /,
    *,
    reason: str = "",
    chosen: Chosen | None = None,
    way: WayForMany = USUAL_FOR_MANY,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Pause sagas: events are remembered, nothing is sent, and timers stand still until `saga resume`.

    Services that follow events by themselves go on all the same. Of a filter those sagas are paused that are there now.

    For example: saga pause --type fulfilment --at-step charge --reason "the bank is down"

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        reason: why, for the record; whoever asks for the saga sees it.
    """
    return await on_sagas(shell, "pause", saga, chosen, reason, way)


async def resume(
    saga: SagaName = "",
    /,
    *,
    reason: str = "",
    chosen: Chosen | None = None,
    way: WayForMany = USUAL_FOR_MANY,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Let paused sagas go on; without a saga and a filter, stopped compensation and timers that the breaker holds.

    A saga's timers have the time left that they had when it was paused.

    For example: saga resume --type fulfilment --state PAUSED

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        reason: why, for the record.
    """
    if not saga and (chosen is None or not chosen.any()):
        return await on_all(shell, "resume", reason, way)
    return await on_sagas(shell, "resume", saga, chosen, reason, way)


async def retry(
    saga: SagaName = "",
    /,
    *,
    from_: Annotated[str, Parameter(name="--from", show_default=False)] = "",
    reason: str = "",
    chosen: Chosen | None = None,
    way: WayForMany = USUAL_FOR_MANY,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Try a failed step again: its command goes out as a new attempt, with the same idempotency key.

    It is refused where the saga is being undone or has ended, and where nobody commands the step (`saga dlq retry`).

    For example: saga retry fulfilment/4711 --from charge --reason "the bank is back"

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        from_: the step; not needed where only one has failed.
        reason: why, for the record; needed with --from.
    """
    if from_:
        needs_reason("from that step", reason)
    return await on_sagas(shell, "retry", saga, chosen, reason, way, step=from_)


async def skip(
    saga: SagaName = "",
    step: str = "",
    /,
    *,
    reason: str,
    skipped: Annotated[str, Parameter(name="--step", show_default=False)] = "",
    chosen: Chosen | None = None,
    way: WayForMany = USUAL_FOR_MANY,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Go on without a step, as if it were optional and had failed: it is DEGRADED.

    It is refused for the pivot, and where what comes later is made of its event. Should it happen all the same, it
    counts, and is undone with the rest.

    For example: saga skip fulfilment/4711 notify --reason "the customer was called"

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        step: which.
        reason: why, for the record.
        skipped: which step, where a filter chooses the sagas.
    """
    needs_reason("without it", reason)
    which = step or skipped
    if not which:
        raise ConfigurationError("which step? write saga skip SAGA STEP, or --step with a filter")
    return await on_sagas(shell, "skip", saga, chosen, reason, way, step=which)
