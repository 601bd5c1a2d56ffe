"""`saga erase`: take out for ever what was said in the sagas of one key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ...events.errors import ChoreoError, ConfigurationError
from . import exits
from .many import needs_reason
from .operate import USUAL_FOR_MANY, WayForMany, answered, confirm, signed
from .shell import Shell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ...events.database import Database
    from ...services.letters import Letter

ERASED = "saga.erased/v1"


async def erase(
    saga: str = "",
    /,
    *,
    key: Annotated[str, Parameter(show_default=False)] = "",
    type: Annotated[str, Parameter(show_default=False)] = "",  # noqa: A002 - the option's name
    reason: str,
    service_store: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    archive: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    way: WayForMany = USUAL_FOR_MANY,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Erase what was said in the sagas of a key: payloads, texts and reasons; that they were, and how they went, stays.

    It concerns the coordinator's store, the services' stores (those in the home folder, and those that are named) and
    the dead letters. Topics of events cannot be changed: what stands there goes with the topic's retention. An open
    saga is refused.

    For example: saga erase --key 4711 --reason "art. 17, ticket 82"

    Args:
        saga: type/key: the sagas of this key of one type.
        key: the sagas of this key, of every type.
        type: of this type only.
        reason: why, for the record; do not name the person in it.
        service_store: also this store of a service, sqlite:PATH or postgresql://...
        archive: also this archive, as it was named to saga archive.
    """
    from .. import erasure, operators

    needs_reason("erase it", reason)
    type_, key = _meant(saga, key, type)
    async with shell.sagas() as database:
        found = await database.read(lambda c: erasure.count(c, type_, key))
        ids = await database.read(lambda c: erasure.event_ids(c, type_, key))
        services = [row async for row in _services(shell, service_store, ids, key, take=False)]
        letters = await _letters(shell, type_, key, ids)
        told = {"schema": ERASED, "state": "dry-run", **found._asdict(), "services": sum(n for _, n in services)}
        told |= {"dead_letters": letters, "archives": await _archives(archive, type_, key, take=False)}
        if way.dry_run:
            _tell(shell, told, found.sentence() or "nothing", "would go", letters)
            return exits.OK
        if not way.yes:
            confirm(f"erase {found.sentence() or 'nothing'} for ever")
        asked: dict[str, Any] = {"by": signed(), "reason": reason, "type": type_, "key": key}
        id_ = await database.write(lambda c: operators.ask(c, erasure.KIND, **asked))
        answer = await answered(database, id_, way.timeout)
        if answer.state == operators.REFUSED:
            from ...events.errors import Refused

            raise Refused(f"erase: {answer.result}")
        if answer.state == operators.PENDING:
            told["state"] = "queued"
            _tell(shell, told, found.sentence() or "nothing", "will go as soon as a coordinator runs", letters)
            shell.hint("then say it again for the services' stores and archives")
            return exits.TIMED_OUT if way.timeout > 0 else exits.OK
        services = [row async for row in _services(shell, service_store, ids, key, take=True)]
        letters = await _letters(shell, type_, key, ids, take=True)
        told["archives"] = await _archives(archive, type_, key, take=True)
        told |= {"state": "applied", "services": sum(number for _, number in services), "dead_letters": letters}
        _tell(shell, told, found.sentence() or "nothing", "erased", letters)
        for url, number in services:
            if number:
                shell.hint(f"{url}: {number:,} answers and parked events erased")
    return exits.OK


async def _archives(named: Sequence[str], type_: str, key: str, *, take: bool) -> int:
    """Count, or erase, the sagas of a key in archives."""
    from functools import partial

    from .. import erasure
    from ..archiving import store_of
    from ..looking import opened

    number = 0
    for each in named:
        async with opened(store_of(each)) as database:
            if take:
                now = await database.read(database.now)
                number += await database.write(partial(erasure.in_archive, type_=type_, key=key, now=now))
            else:
                number += (await database.read(partial(erasure.count, type_=type_, key=key))).sagas
    return number


def _meant(saga: str, key: str, type_: str) -> tuple[str, str]:
    from ..names import is_saga_type, parse_saga_id

    if bool(saga) == bool(key):
        raise ConfigurationError("whose? name type/key, or --key (with --type or of every type)")
    if key:
        return type_, key
    head, slash, _ = saga.partition("/")
    if not slash or not is_saga_type(head):
        raise ConfigurationError(f"{saga!r} is no type/key; for every type write --key {saga}")
    name = parse_saga_id(saga)
    return name.type, name.key


async def _services(
    shell: Shell, named: Sequence[str], ids: Sequence[str], key: str, *, take: bool
) -> AsyncIterator[tuple[str, int]]:
    """Count, or take, what the services' stores hold of these events."""
    from functools import partial

    from ...events.database import Database, schema_version
    from ...services import erasing
    from .upgrade import _files

    for url in dict.fromkeys((*named, *(f"sqlite:{path}" for path in _files(shell.settings)))):
        database: Database = await Database.open(url, must_exist=True)
        try:
            if await database.read(partial(schema_version, room="services")) is None:
                continue
            work = partial(erasing.erase if take else erasing.count, event_ids=ids, key=key)
            yield database.url, await (database.write(work) if take else database.read(work))
        finally:
            await database.close()


async def _letters(shell: Shell, type_: str, key: str, ids: Sequence[str], *, take: bool = False) -> int | None:
    """Count, or take, the words of the key's dead letters; None where the broker cannot be asked."""
    from ...services.forgetting import erase_letters
    from .letterbox import broker, read

    events = frozenset(ids)

    def meant(letter: Letter) -> bool:
        of_type = (letter.saga or "").startswith(f"{type_}/") or letter.event_id in events
        return letter.key == key and (not type_ or of_type)

    try:
        async with broker(shell) as transport:
            if take:
                return await erase_letters(transport, meant)
            found = await read(transport, ())
    except (ChoreoError, OSError) as error:
        if take:
            shell.hint(f"dead letters: {error}")
        return None
    return sum(not each.letter.erased and meant(each.letter) for each in found)


def _tell(shell: Shell, told: dict[str, Any], what: str, became: str, letters: int | None) -> None:
    if shell.machine:
        shell.json(told)
        return
    more = f", and {told['services']:,} rows of services" if told["services"] else ""
    more += f", and {told['archives']:,} archived sagas" if told["archives"] else ""
    more += f", and {letters:,} dead letters" if letters else ""
    shell.lines([f"{what}{more}: {became}"])
    if letters is None:
        shell.hint("the broker was not asked: say it again when it answers, for the dead letters of that key")
    shell.hint("events stay on their topics until those topics' retention ends")
