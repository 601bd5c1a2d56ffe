"""`saga upgrade`: try a new version of a saga on everything that runs, and move it there."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyclopts import Parameter

from ...events.errors import ChoreoError, ConfigurationError, Refused
from . import exits
from .operate import DryRun, Yes, answered, confirm, signed
from .progress import counting
from .replay import line, told
from .shell import Shell

if TYPE_CHECKING:
    from ...events.database import Database
    from ...events.settings import Settings
    from ..declaration import Declaration
    from ..definition import Definition
    from ..recorded import Which

_SHOWN = 100
_PAGE = 100


class _Schemas(NamedTuple):
    """What the registry says: problems by event type, and why it could not be asked."""

    checked: int = 0
    problems: tuple[str, ...] = ()
    unreachable: str = ""


def upgrade(
    target: str,
    /,
    *,
    check: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    dry_run: DryRun = False,
    version: Annotated[list[int] | None, Parameter(name="--from")] = None,
    reason: str = "",
    timeout: float = 30.0,
    yes: Yes = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Try a new version of a saga on the history of every live one; without --check, also move them to it.

    A saga is moved when its history reads the same under the new version as far as it has come; from then on it runs
    under that one, with its limits. The others stay and are listed with the first difference: what a step had come to,
    what was sent, or a limit that would be over at once. The Avro schemas of the new version's events are held against
    the registry too. Moving needs a coordinator that has the new version loaded; interrupted, say it again.

    The exit code is 1 where a saga would differ or a schema does not fit, 9 where the registry cannot be asked.

    Args:
        target: module:Saga or path/file.py:Saga, the new version.
        check: change nothing.
        dry_run: the same as --check.
        version: only sagas of this version, may be given several times; default: every other one.
        reason: why, for the record.
        timeout: how long to wait for a coordinator at each page of sagas, seconds.
        yes: do not ask before moving.
    """
    from ..loading import load_parts

    sagas = load_parts([target]).sagas  # before there is a loop: a module may do at its import what it likes
    if len(sagas) != 1:
        raise ConfigurationError(f"{target} holds {len(sagas)} sagas; name one, as in {target.partition(':')[0]}:Saga")
    declaration = sagas[0].declaration()
    if check or dry_run:
        return asyncio.run(_check(shell, declaration, tuple(version or ())))
    return asyncio.run(_move(shell, declaration, tuple(version or ()), reason, timeout, yes))


async def _check(shell: Shell, declaration: Declaration, versions: tuple[int, ...]) -> int:
    from .. import recorded
    from ..difference import tried

    new = declaration.definition
    async with shell.sagas() as database:
        known, which = await _candidates(database, new, versions)
        total = await database.read(lambda connection: recorded.count(connection, which))
        now = await database.read(database.now)
        differing = 0
        shown: list[dict[str, Any]] = []
        places: Counter[tuple[int, str, str]] = Counter()
        after, done = "", 0
        with counting(shell, "trying", total) as tell:
            while page := await database.read(lambda c: recorded.page(c, which, after=after)):  # noqa: B023 - at once
                after = page[-1].instance.id
                for each in page:
                    difference = tried(each, known, new, now)
                    done += 1
                    if difference is not None:
                        differing += 1
                        places[each.instance.version, difference.step or "", difference.what] += 1
                        if len(shown) < _SHOWN:
                            shown.append(told(each.instance.id, difference))
                tell(done)
    schemas = await _schemas(shell.settings, declaration)
    _tell_check(shell, new, done, differing, places, shown, schemas)
    same = known.get(new.version)
    if same is not None and same.hash != new.hash:
        shell.hint(f"version {new.version} is registered with another content: give this one version={max(known) + 1}")
    if differing or schemas.problems:
        return exits.ERROR
    return exits.UNREACHABLE if schemas.unreachable else exits.OK


async def _move(
    shell: Shell, declaration: Declaration, versions: tuple[int, ...], reason: str, timeout: float, yes: bool
) -> int:
    from .. import loaded, moving, operators, recorded

    new = declaration.definition
    schemas = await _schemas(shell.settings, declaration)
    if schemas.problems:
        raise Refused(
            f"a schema of version {new.version} does not fit: {schemas.problems[0]}; see saga upgrade --check"
        )
    async with shell.sagas() as database:
        known, which = await _candidates(database, new, versions)
        there = known.get(new.version)
        if there is not None and there.hash != new.hash:
            raise ConfigurationError(
                f"version {new.version} of {new.type} is registered with another content; "
                f"give this one version={max(known) + 1}"
            )
        if (new.type, new.version) not in await database.read(loaded.coordinators):
            raise Refused(f"version {new.version} of {new.type} is loaded nowhere; run it first, with saga run")
        total = await database.read(lambda connection: recorded.count(connection, which))
        if total and not yes:
            confirm(f"{total:,} open sagas of {new.type} are tried, and moved to version {new.version} if they fit")
        about = moving.target(new.type, new.version)
        moved = staying = 0
        shown: list[dict[str, Any]] = []
        after, done = "", 0
        with counting(shell, "moving", total) as tell:
            while page := await database.read(lambda c: recorded.names(c, which, after=after, most=_PAGE)):  # noqa: B023
                after = page[-1]
                asked: dict[str, Any] = {"by": signed(), "reason": reason, "sagas": page, "hash": new.hash}
                id_ = await database.write(partial(operators.ask, kind=moving.KIND, saga_id=about, **asked))
                answer = await answered(database, id_, timeout)
                if answer.state == operators.PENDING:
                    shell.hint(f"{moved:,} moved so far; say it again to go on")
                    return exits.TIMED_OUT
                if answer.state == operators.REFUSED:
                    raise Refused(answer.result)
                became = json.loads(answer.result)
                moved += became["moved"]
                staying += len(became["stayed"])
                shown += [
                    {"schema": "saga.difference/v1", "id": each["id"], **each["difference"]}
                    for each in became["stayed"][: _SHOWN - len(shown)]
                ]
                done += len(page)
                tell(done)
    if shell.machine:
        about_ = {"type": new.type, "version": new.version}
        counts = {"moved": moved, "stayed": staying, "differences": shown}
        shell.json({"schema": "saga.upgraded/v1", **about_, **counts})
    else:
        shell.lines(line(each) for each in shown)
        shell.lines([f"{moved:,} sagas moved to version {new.version} of {new.type} · {staying:,} stay where they are"])
    return exits.ERROR if staying else exits.OK


async def _candidates(
    database: Database, new: Definition, versions: tuple[int, ...]
) -> tuple[dict[int, Definition], Which]:
    """Load what is registered, and say which sagas the new version is for.

    Raises:
        SagaNotFound: no coordinator has registered that type here.
        ConfigurationError: a version that is asked for does not exist.
    """
    from .. import queries, recorded

    await database.read(lambda connection: queries.newest_definition(connection, new.type))
    known = await database.read(lambda connection: recorded.definitions_of(connection, new.type))
    if wrong := sorted(set(versions) - set(known)):
        raise ConfigurationError(f"--from {wrong[0]}: {new.type} has the versions {', '.join(map(str, sorted(known)))}")
    chosen = [each for each in versions or known if known[each].hash != new.hash]
    return known, recorded.Which(types=(new.type,), versions=chosen or (0,), only_open=True)


async def _schemas(settings: Settings, declaration: Declaration) -> _Schemas:
    """Hold the schema of each event against the newest one that the registry has: it must read what was written."""
    from ...events.codec import subject_of
    from ...events.compatibility import check_backward
    from ...events.registry import open_registry
    from ...events.transports import connect

    specs = [cls.spec() for cls in declaration.events.values()]
    problems: list[str] = []
    checked = 0
    try:
        async with connect(settings.broker_url, settings) as transport:
            registry = open_registry(settings, transport)
            try:
                for spec in specs:
                    latest = await registry.latest(subject_of(spec.topic, spec.type)) if spec.schema else None
                    if latest is not None and spec.schema is not None:
                        checked += 1
                        problems += [f"{spec.type}: {each}" for each in check_backward(spec.schema, latest.schema)]
            finally:
                await registry.close()
    except ChoreoError as error:
        return _Schemas(checked, tuple(problems), error.message)
    return _Schemas(checked, tuple(problems))


def _tell_check(
    shell: Shell,
    new: Definition,
    done: int,
    differing: int,
    places: Counter[tuple[int, str, str]],
    shown: list[dict[str, Any]],
    schemas: _Schemas,
) -> None:
    if shell.machine:
        shell.json(
            {
                "schema": "saga.upgrade-check/v1",
                "type": new.type,
                "version": new.version,
                "hash": new.hash,
                "tried": done,
                "differing": differing,
                "by_place": [
                    {"from": version, "step": step or None, "what": what, "count": count}
                    for (version, step, what), count in places.most_common()
                ],
                "differences": shown,
                "schemas": {
                    "checked": schemas.checked,
                    "problems": list(schemas.problems),
                    "unreachable": schemas.unreachable or None,
                },
            }
        )
        return
    if shell.output == "id":
        shell.lines(each["id"] for each in shown)
        return
    shell.lines(line(each) for each in shown)
    if differing > len(shown):
        shell.hint(f"the first {len(shown)} of {differing:,} are shown")
    for (version, step, what), count in places.most_common():
        where = f"step {step}: {what}" if step else what
        shell.lines([f"{count:,} of version {version} would differ at {where}"])
    shell.lines(f"schema of {problem}" for problem in schemas.problems)
    if schemas.unreachable:
        shell.lines([f"the schemas were not checked: {schemas.unreachable}"])
    else:
        shell.lines([f"{schemas.checked} schemas checked · {len(schemas.problems)} problems"])
    shell.lines([f"{done:,} live sagas tried · {done - differing:,} the same · {differing:,} would differ"])
