"""`saga status`: where a saga is, why, and what happens next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ...events.errors import ConfigurationError
from . import exits
from .letterbox import Flag
from .shell import Shell
from .suggesting import SagaName

if TYPE_CHECKING:
    from ...events.database import Database
    from ...events.settings import Settings
    from ..looking import View
    from ..report import Observed


async def status(
    saga: SagaName,
    /,
    *,
    history: Flag = False,
    payloads: Flag = False,
    all_attempts: Flag = False,
    exit_status: Flag = False,
    web: Flag = False,
    watch: Annotated[bool, Parameter(name=["--watch", "-w"], negative="", show_default=False)] = False,
    bars: Annotated[bool, Parameter(negative="--no-bars", show_default=False)] = True,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Show where a saga is, why, and what happens next. It works with the broker down, and says so.

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
        history: also every input, with what it changed.
        payloads: and what the events said, secrets masked.
        all_attempts: each attempt of a step in a line of its own.
        exit_status: end with the saga's outcome, see `saga help exit-codes`.
        web: open its page of `saga serve`, at CHOREO_WEB; without that its trace in Jaeger, at CHOREO_JAEGER.
        watch: go on showing it until it ends; the exit code is its outcome then.
        bars: draw the steps on a scale of time, where there is room.
    """
    from .drawing import draw_status, next_commands
    from .history import draw_history, read_payloads, with_payload

    if watch:
        from .watch import follow

        return await follow(shell, saga, picture=True, bars=bars)
    from .. import payloads as said
    from .paging import paged

    async with shell.sagas() as database:
        id_ = await find(database, saga)
        kept = await database.read(lambda c: said.read_payloads(c, id_)) if payloads else {}
        view = await look(database, shell.settings, id_, await probe(database, shell.settings, id_))
    spoken = await read_payloads(shell.settings, kept)
    if shell.machine:
        if history or payloads:
            from ..report import history_entry

            entries = [(each.seq, history_entry(id_, each)) for each in view.entries]
            view.told["history"] = [with_payload(each, spoken.get(seq), asked=payloads) for seq, each in entries]
        shell.json(view.told)
    elif shell.output == "id":
        shell.lines([view.told["id"]])
    else:
        with paged(shell, when=history or payloads):
            draw_status(shell, view, bars=bars, attempts=all_attempts)
            if history or payloads:
                shell.show()
                draw_history(shell, view.entries, spoken)
        shell.hint(next_commands(view.told))
    if web:
        _open(shell, view.told)
    return outcome_of(view.told) if exit_status else exits.OK


def _open(shell: Shell, told: dict[str, Any]) -> None:
    """Open a saga's page, and say which; on a machine without a browser that is all."""
    import webbrowser

    base = shell.settings.web
    url = f"{base.rstrip('/')}/sagas/{told['id']}" if base else told["trace"]["url"]
    if url is None:
        raise ConfigurationError("where is the web view? set CHOREO_WEB to the address of `saga serve`")
    shell.hint(f"opening {url}")
    webbrowser.open(url)


async def find(database: Database, saga: str) -> str:
    """Find the saga that is meant.

    Raises:
        SagaNotFound, AmbiguousSaga
    """
    from ...events.errors import SagaNotFound
    from .. import queries
    from ..shard import elsewhere

    try:
        return await database.read(lambda connection: queries.resolve(connection, saga))
    except SagaNotFound as error:
        where = await database.read(lambda connection: elsewhere(connection, saga))
        if where is None:
            raise
        raise SagaNotFound(f"{error.message}; this is {where}", saga_id=saga) from None


async def probe(database: Database, settings: Settings, id_: str) -> Observed:
    """Look at what surrounds a saga beside the store, for a few seconds at most."""
    from .. import queries
    from .observing import observe

    now, found = await database.read(lambda c: (database.now(c), queries.load(c, id_)))
    return await observe(settings, now, found.definition.topics.values())


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
