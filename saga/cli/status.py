"""`saga status`: where a saga is, why, and what happens next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from . import exits
from .shell import Shell

if TYPE_CHECKING:
    from ...events.database import Database
    from ...events.settings import Settings
    from ..looking import View
    from ..report import Observed


async def status(
    saga: str,
    /,
    *,
    history: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    exit_status: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    bars: Annotated[bool, Parameter(negative="--no-bars", show_default=False)] = True,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Show where a saga is, why, and what happens next. It works with the broker down, and says so.

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        history: also every input, with what it changed.
        exit_status: end with the saga's outcome, see `saga help exit-codes`.
        bars: draw the steps on a scale of time, where there is room.
    """
    from .drawing import draw_history, draw_status, next_commands

    async with shell.sagas() as database:
        id_ = await find(database, saga)
        view = await look(database, shell.settings, id_, await probe(database, shell.settings))
    if shell.machine:
        if history:
            from ..report import history_entry

            view.told["history"] = [history_entry(view.told["id"], entry) for entry in view.entries]
        shell.json(view.told)
    elif shell.output == "id":
        shell.lines([view.told["id"]])
    else:
        draw_status(shell, view, bars=bars)
        if history:
            draw_history(shell, view)
        shell.hint(next_commands(view.told))
    return outcome_of(view.told) if exit_status else exits.OK


async def find(database: Database, saga: str) -> str:
    """Find the saga that is meant.

    Raises:
        SagaNotFound, AmbiguousSaga
    """
    from .. import queries

    return await database.read(lambda connection: queries.resolve(connection, saga))


async def probe(database: Database, settings: Settings) -> Observed:
    """Look at what surrounds the store, for a few seconds at most."""
    from .observing import observe

    return await observe(settings, await database.read(database.now))


async def look(database: Database, settings: Settings, id_: str, observed: Observed) -> View:
    """Read a saga.

    Args:
        database: the store.
        settings: the namespace, and where Jaeger is.
        id_: the saga's whole name.
        observed: what was seen beside the store.
    """
    from ..looking import look as look_

    return await look_(database, settings, id_, observed)


def waits_for_person(told: dict[str, Any]) -> bool:
    """Whether a saga waits for somebody."""
    return any(condition["type"] == "WaitingForPerson" for condition in told["conditions"])


def outcome_of(told: dict[str, Any]) -> int:
    """Give the exit code that tells a saga's outcome."""
    return exits.outcome(told["phase"], waits_for_person=waits_for_person(told))
