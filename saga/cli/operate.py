"""What people ask of sagas: rows in the store, which works with the broker down; a coordinator applies them (R17)."""

from __future__ import annotations

import asyncio
import getpass
import json
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ...events.errors import ConfigurationError, Refused
from . import exits
from .shell import Shell

if TYPE_CHECKING:
    from ...events.database import Database
    from ..audit import Who
    from ..operators import Answer

_POLL = 0.1

Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative="", show_default=False)]
DryRun = Annotated[bool, Parameter(negative="", show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Way:
    """How something is asked of a coordinator.

    Args:
        timeout: how long to wait for a coordinator, seconds; 0 only writes the command down.
        dry_run: only say what would come of it.
    """

    timeout: float = 5.0
    dry_run: DryRun = False

    @property
    def sure(self) -> bool:
        """Whether nobody needs to be asked before."""
        return True


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WayForMany(Way):
    """The same, where a person is asked before something large.

    Args:
        timeout: how long to wait for a coordinator, seconds; 0 only writes the command down.
        dry_run: only say what would come of it.
        yes: do not ask.
    """

    yes: Yes = False

    @property
    def sure(self) -> bool:
        """Whether nobody needs to be asked before."""
        return self.yes


USUAL, USUAL_FOR_MANY = Way(), WayForMany()


async def start(
    type: str,  # noqa: A002 - the option's name
    /,
    *fields: str,
    data: str = "",
    event: str = "",
    reason: str = "",
    way: Way = USUAL,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Start a saga: a coordinator publishes its start event.

    Args:
        type: of the saga.
        fields: of the start event, each as name=value.
        data: of the start event as JSON, instead of fields.
        event: the start event's type, where the saga has several.
        reason: why, for the record.
    """
    from .. import queries
    from ..names import saga_id

    values = _fields(fields, data)
    async with shell.sagas() as database:
        definition = await database.read(lambda connection: queries.newest_definition(connection, type))
        if event and event not in definition.start:
            raise ConfigurationError(f"{event} does not start {type}; {' or '.join(definition.start)} does")
        chosen = event or definition.start[0]
        if not event and len(definition.start) > 1:
            raise ConfigurationError(f"--event: which event starts it, {' or '.join(definition.start)}?")
        field = definition.key_field(chosen)
        if field is None:
            raise ConfigurationError(
                f"the key of {chosen} stands in no field of it; publish the event as its system does"
            )
        key = values.get(field)
        if key in (None, ""):
            raise ConfigurationError(f"{chosen} needs its key: write {field}=...")
        id_ = saga_id(type, str(key))
        asked: dict[str, Any] = {"type": type, "event": chosen, "data": values}
        return await ask(shell, database, "start", id_, reason, way, **asked)


async def stop(
    *,
    all_undo: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    reason: str,
    way: WayForMany = USUAL_FOR_MANY,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Stop all compensation: no undo command goes out until `saga resume`.

    Args:
        all_undo: required: it concerns every saga of this store.
        reason: why, for the record.
    """
    if not all_undo:
        raise ConfigurationError("saga stop stops the compensation of every saga; say so with --all-undo")
    return await on_all(shell, "stop", reason, way)


async def on_saga(shell: Shell, kind: str, saga: str, reason: str, way: Way, step: str = "", by: str = "") -> int:
    """Ask for something that is about one saga, and wait for what becomes of it.

    Raises:
        Refused: the saga's state does not permit it.
        ConfigurationError: the saga has no such step, or a reason is needed.
    """
    from .. import queries
    from .status import find

    if kind in ("cancel", "mark-undone", "reject", "dismiss") and not reason.strip():
        raise ConfigurationError("--reason is empty; say why, for the record")
    async with shell.sagas() as database:
        id_ = await find(database, saga)
        found = await database.read(lambda connection: queries.load(connection, id_))
        if step and step not in found.instance.steps:
            raise ConfigurationError(f"{id_} has no step {step!r}; it has {', '.join(found.instance.steps)}")
        asked = {"step": step} if step else {}
        return await ask(shell, database, kind, id_, reason, way, by=by, **asked)


async def on_all(shell: Shell, kind: str, reason: str, way: Way) -> int:
    """Ask for something that concerns every saga."""
    from .. import queries

    async with shell.sagas() as database:
        counts = await database.read(
            lambda connection: queries.count_phases(connection, queries.Filter(only_open=True))
        )
        concerned = sum(counts.values())
        if not way.sure and not way.dry_run:
            confirm(f"{kind}: this concerns all {concerned:,} open sagas of {database.url}")
        return await ask(shell, database, kind, None, reason, way)


def confirm(question: str) -> None:
    """Ask before something large; without a terminal say how to go on.

    Raises:
        ConfigurationError: there is nobody to ask.
        Refused: the answer was no.
    """
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question}; say -y to go on without being asked")
    sys.stderr.write(f"{question}. Go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Refused("nothing was changed")


async def ask(
    shell: Shell,
    database: Database,
    kind: str,
    id_: str | None,
    reason: str,
    way: Way,
    *,
    about: str = "all sagas",
    by: str = "",
    **arguments: Any,
) -> int:
    """Write the command down and wait for what becomes of it.

    Args:
        shell: where to tell it.
        database: the store.
        kind: what is asked.
        id_: the saga that it is about; None where it is about something else.
        reason: why, for the record.
        way: how.
        about: what it is about, where that is no saga.
        by: who asks; "" for the user of this machine.
        arguments: what the kind needs.

    Raises:
        Refused: the saga's state does not permit it.
    """
    from .. import operators

    if way.dry_run:
        told = {
            "schema": "saga.command/v1",
            "command_id": None,
            "kind": kind,
            "id": id_,
            "state": "dry-run",
            "result": None,
        }
        shell.json(told) if shell.machine else shell.lines([f"{kind} {id_ or about}: nothing was asked (--dry-run)"])
        return exits.OK
    command_id = await database.write(
        lambda connection: operators.ask(connection, kind, saga_id=id_, by=signed(by), reason=reason, **arguments)
    )
    answer = await answered(database, command_id, way.timeout)
    if answer.state == operators.REFUSED:
        raise Refused(f"{kind} {id_ or ''}: {answer.result}".replace(" :", ":"), saga_id=id_)
    told = {
        "schema": "saga.command/v1",
        "command_id": command_id,
        "kind": kind,
        "id": id_,
        "state": "queued" if answer.state == operators.PENDING else answer.state,
        "result": answer.result or None,
    }
    _tell(shell, told, way.timeout, about)
    return exits.TIMED_OUT if answer.state == operators.PENDING and way.timeout > 0 else exits.OK


async def answered(database: Database, command_id: str, timeout: float) -> Answer:
    """Wait for what becomes of a command, for at most `timeout` seconds; it may be pending still."""
    from .. import operators

    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        found = await database.read(lambda connection: operators.answer(connection, command_id))
        if found.state != operators.PENDING or loop.time() >= deadline:
            return found
        await asyncio.sleep(_POLL)


def _tell(shell: Shell, told: dict[str, Any], timeout: float, about: str) -> None:
    if shell.machine:
        shell.json(told)
    elif shell.output == "id":
        shell.lines([told["id"] or told["command_id"]])
    elif told["state"] == "queued":
        waited = f"no coordinator took it within {timeout:g}s; " if timeout > 0 else ""
        shell.lines([f"{told['kind']} {told['id'] or about}: queued; {waited}it is applied as soon as one runs"])
    else:
        shell.lines([f"{told['kind']} {told['id'] or about}: {told['result']}"])
    if told["id"] and not shell.machine:
        shell.hint(f"next  saga watch {told['id']} · saga status {told['id']}")


def _fields(fields: tuple[str, ...], data: str) -> dict[str, Any]:
    if data and fields:
        raise ConfigurationError("give the start event as name=value fields or as --data, not both")
    if data:
        try:
            values = json.loads(data)
        except ValueError as error:
            raise ConfigurationError(f"--data is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ConfigurationError('--data is not a JSON object; write it like {"order_id": "4711"}')
        return values
    found = {}
    for field in fields:
        name, equals, value = field.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"{field!r} is no field; write name=value")
        found[name] = value
    return found


def who() -> str:
    """Name the person for the record; a container may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def signed(by: str = "") -> Who:
    """Say who asks, for the audit: the user of this machine, or whom they name."""
    from ..audit import Who

    host = socket.gethostname()
    return Who(by or who(), host if by in ("", who()) else f"{who()}@{host}", "cli")
