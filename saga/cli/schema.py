"""`saga schema`: what a registry holds, and whether code and registry agree."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from ...events.errors import ConfigurationError, SchemaNotFound
from . import exits
from .shell import Shell
from .tables import draw

if TYPE_CHECKING:
    from ...events.compatibility import Level
    from ...events.registry import RegisteredSchema, SchemaRegistry
    from ...events.schema_changes import Change
    from ..contracts import Standing

SUBJECT = "saga.schema-subject/v1"
SCHEMA = "saga.schema/v1"
DIFFERENCE = "saga.schema-difference/v1"
STANDING = "saga.schema-standing/v1"

Where = Annotated[str, Parameter(name="--registry", show_default=False)]
Hidden = Annotated[Shell, Parameter(parse=False)]

schema = App(
    name="schema",
    help="Schemas: what a registry holds, and whether code agrees with it.",
    help_format="plaintext",
)


@schema.command(name="list")
async def list_(text: str = "", /, *, registry: Where = "", shell: Hidden) -> None:
    """List the subjects of a registry, each with its newest schema.

    Args:
        text: only subjects that hold it.
        registry: a URL, or a folder of .avsc files; default: CHOREO_REGISTRY, else the broker's own.
    """
    async with _opened(shell, registry) as (found, place):
        names = [name for name in await found.subjects() if text in name]
        newest = [(name, await found.latest(name)) for name in names]
    rows: list[dict[str, Any]] = [
        {
            "schema": SUBJECT,
            "subject": name,
            "version": each.version,
            "id": each.id,
            "record": each.schema.get("name"),
            "fields": [field["name"] for field in each.schema.get("fields", ())],
        }
        for name, each in newest
        if each is not None
    ]
    if shell.machine:
        shell.json(rows)
    elif shell.output == "id":
        shell.lines(str(row["subject"]) for row in rows)
    else:
        table = [
            [str(row["subject"]), str(row["version"]), str(row["id"]), ", ".join(row["fields"]) or "-"] for row in rows
        ]
        if table:
            draw(shell, ["SUBJECT", "VERSION", "ID", "FIELDS"], table, right={1, 2}, elastic={3})
        shell.hint(f"{len(rows)} subjects in {place}")


@schema.command
async def show(
    what: str,
    /,
    *,
    version: Annotated[int, Parameter(show_default=False)] = 0,
    registry: Where = "",
    shell: Hidden,
) -> None:
    """Show a schema as it is registered, as Avro's JSON.

    Args:
        what: a subject, as in `saga schema list`, or an id, as it stands in front of a value.
        version: of the subject; default: the newest.
        registry: a URL, or a folder of .avsc files; default: CHOREO_REGISTRY, else the broker's own.
    """
    async with _opened(shell, registry) as (found, place):
        if what.isascii() and what.isdigit():
            from ...events.errors import DecodeError

            if version:
                raise ConfigurationError(f"{what} is an id, which names one schema; --version belongs to a subject")
            try:
                told: dict[str, Any] = {"id": int(what), "avro": await found.fetch(int(what))}
            except DecodeError as error:
                raise SchemaNotFound(error.message) from None
        else:
            each = await _version(found, what, version, place)
            told = {"subject": what, "version": each.version, "id": each.id, "avro": each.schema}
    if shell.machine:
        shell.json({"schema": SCHEMA, **told})
    elif shell.output == "id":
        shell.lines([str(told["id"])])
    else:
        import json

        shell.lines([json.dumps(told["avro"], indent=2, ensure_ascii=False)])
        if "subject" in told:
            shell.hint(f"{what} version {told['version']}, id {told['id']}, in {place}")


@schema.command
async def diff(
    subject: str,
    target: str = "",
    /,
    *,
    before: Annotated[int, Parameter(name="--from", show_default=False)] = 0,
    after: Annotated[int, Parameter(name="--to", show_default=False)] = 0,
    registry: Where = "",
    shell: Hidden,
) -> None:
    """Show what is different between two versions of a subject, or between its newest one and code.

    Args:
        subject: as in `saga schema list`.
        target: an event class of yours as module:Class or file.py:Class, or an .avsc file: what it would become.
        before: the older version; default: the one before the newer.
        after: the newer version; default: the newest.
        registry: a URL, or a folder of .avsc files; default: CHOREO_REGISTRY, else the broker's own.
    """
    from ...events.compatibility import check_backward, check_forward
    from ...events.schema_changes import changes

    if target and after:
        raise ConfigurationError("--to names a version, and a target stands for the newer one; give one of them")
    own = _own(target, subject) if target else None
    async with _opened(shell, registry) as (found, place):
        if own is None:
            new = await _version(found, subject, after, place)
            to: dict[str, Any] = {"version": new.version, "name": None}
            newer, newest = new.schema, new.version
        else:
            to, newer, newest = {"version": None, "name": target}, own, 0
        if not before and newest:
            before = newest - 1
            if not before:
                raise SchemaNotFound(f"{subject} has one version in {place}; hold it against code: give a target too")
        old = await _version(found, subject, before, place)
    differences = changes(old.schema, newer)
    problems = {
        "backward": check_backward(newer, old.schema),
        "forward": check_forward(newer, old.schema),
    }
    if shell.machine:
        shell.json(
            {
                "schema": DIFFERENCE,
                "subject": subject,
                "from": {"version": old.version},
                "to": to,
                "changes": [
                    {"field": each.field, "change": each.change, "before": each.before, "after": each.after}
                    for each in differences
                ],
                "problems": problems,
            }
        )
        return
    shell.lines(change_line(each) for each in differences)
    if shell.output == "id":
        return
    for level, told in problems.items():
        shell.lines(
            [f"{level.upper()} compatible" if not told else f"not {level.upper()} compatible: {'; '.join(told)}"]
        )
    shell.hint(f"{subject} version {old.version} to {to['name'] or 'version ' + str(to['version'])}, in {place}")


@schema.command
async def check(*targets: str, registry: Where = "", shell: Hidden) -> int:
    """Hold the schemas of code against a registry; nothing is changed there. Exit code 1 where one is incompatible.

    What services, sagas and publishers write must keep the rule of CHOREO_COMPATIBILITY (default: BACKWARD), and the
    server's own; a class that they only read must be able to read the newest schema there. With a registry's URL, or a
    folder of .avsc files under version control, no broker is needed.

    Args:
        targets: module:object or file.py:object: services, sagas, event classes, lists of these, a whole module; or
            <subject>.avsc files.
        registry: a URL, or a folder of .avsc files; default: CHOREO_REGISTRY, else the broker's own.
    """
    standings, place = await _standings(shell, targets, registry)
    _tell(shell, standings)
    broken = sum(each.verdict == "incompatible" for each in standings)
    shell.hint(f"{len(standings)} schemas held against {place} · {broken} incompatible")
    return exits.ERROR if broken else exits.OK


@schema.command
async def register(
    *targets: str,
    reason: Annotated[str, Parameter(show_default=False)] = "",
    dry_run: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    registry: Where = "",
    shell: Hidden,
) -> int:
    """Register what code writes: all of it, or nothing where one schema is incompatible (exit code 1).

    Services and publishers do it when they start; doing it before lets credentials stay with the deployment.

    Args:
        targets: as for `saga schema check`; what they only read is left out.
        reason: why, for the audit.
        dry_run: only say what would be registered.
        registry: a URL, or a folder of .avsc files (which is made); default: CHOREO_REGISTRY, else the broker's own.
    """
    from ..contracts import load_contracts, standing

    contracts = [each for each in load_contracts(_named(targets)) if each.role == "writes"]
    done: list[Standing] = []
    async with _opened(shell, registry, make=True) as (found, place):
        standings = [await standing(each, found) for each in contracts]
        broken = sum(each.verdict == "incompatible" for each in standings)
        for each in standings if not broken and not dry_run else ():
            await found.register(each.contract.subject, each.contract.schema)
            done.append(await standing(each.contract, found))
    if done:
        from .recording import Recorder

        await Recorder(shell, "schema register", reason).done([(each.contract.subject, {"in": place}) for each in done])
    _tell(shell, done or standings, registered=len(done) > 0)
    fresh = sum(each.verdict in ("new", "compatible") for each in standings)
    if broken:
        shell.hint(f"{broken} of {len(standings)} schemas are incompatible with {place}; nothing was registered")
        return exits.ERROR
    shell.hint(f"{fresh} of {len(standings)} schemas {'would be' if dry_run else 'were'} registered in {place}")
    return exits.OK


async def _standings(shell: Shell, targets: Sequence[str], registry: str) -> tuple[list[Standing], str]:
    from ..contracts import load_contracts, standing

    contracts = load_contracts(_named(targets))
    async with _opened(shell, registry) as (found, place):
        return [await standing(each, found) for each in contracts], place


def _named(targets: Sequence[str]) -> Sequence[str]:
    if not targets:
        raise ConfigurationError(
            "whose schemas? name services, sagas or event classes, as in saga schema check shop.py"
        )
    return targets


def _own(target: str, subject: str) -> dict[str, Any]:
    from ..contracts import load_contracts

    contracts = load_contracts([target])
    named = [each for each in contracts if each.subject == subject]
    if named or len(contracts) == 1:
        return (named or contracts)[0].schema
    raise ConfigurationError(
        f"{target} has no event of the subject {subject}; name one class, as in shop.py:OrderPlaced"
    )


@asynccontextmanager
async def _opened(shell: Shell, where: str, *, make: bool = False) -> AsyncIterator[tuple[SchemaRegistry, str]]:
    """Open the registry that is meant, with how people call it; only the embedded one needs the broker."""
    from ...events.registry import EmbeddedRegistry, open_registry
    from ...events.settings import load_settings
    from ...events.transports import connect

    settings = shell.settings
    if where and "://" not in where:
        yield _folder(where, settings.compatibility, make), f"the folder {where}"
        return
    if where:
        settings = load_settings(**{**settings.model_dump(), "registry": where})
    if settings.registry:
        from ...events.confluent import open_server

        server = open_server(settings)
        try:
            yield server, settings.registry
        finally:
            await server.close()
        return
    async with connect(settings.broker_url, settings) as transport:
        registry = open_registry(settings, transport)
        assert isinstance(registry, EmbeddedRegistry)
        yield registry, f"the embedded registry on {settings.broker_url}"


def _folder(where: str, compatibility: Level, make: bool) -> SchemaRegistry:
    from ...events.schema_folder import FolderRegistry

    if not make and not Path(where).is_dir():  # a wrong path must not look like a registry in which all is new
        raise ConfigurationError(
            f"there is no folder {where}; `saga schema register TARGET --registry {where}` makes it"
        )
    return FolderRegistry(Path(where), compatibility)


async def _version(registry: SchemaRegistry, subject: str, version: int, place: str) -> RegisteredSchema:
    from difflib import get_close_matches

    if not version:
        newest = await registry.latest(subject)
        if newest is not None:
            return newest
    elif there := await registry.history(subject):
        found = next((each for each in there if each.version == version), None)
        if found is not None:
            return found
        raise SchemaNotFound(
            f"{subject} has the versions {', '.join(str(each.version) for each in there)}, not {version}"
        )
    close = get_close_matches(subject, await registry.subjects(), n=1)
    raise SchemaNotFound(
        f"there is no subject {subject!r} in {place}" + (f"; did you mean {close[0]!r}?" if close else "")
    )


def change_line(change: Change) -> str:
    """Tell a change of a schema in one line."""
    field = change.field or "(the record)"
    if change.change == "changed":
        return f"~ {field}  {change.before} → {change.after}"
    return f"+ {field}  {change.after}" if change.change == "added" else f"- {field}  {change.before}"


def _tell(shell: Shell, standings: Sequence[Standing], *, registered: bool = False) -> None:
    if shell.machine:
        shell.json(
            [
                {
                    "schema": STANDING,
                    "subject": each.contract.subject,
                    "name": each.contract.name,
                    "role": each.contract.role,
                    "verdict": each.verdict,
                    "version": each.version,
                    "problems": list(each.problems),
                }
                for each in standings
            ]
        )
    elif shell.output == "id":
        shell.lines(each.contract.subject for each in standings if registered or each.verdict == "incompatible")
    else:
        table = [
            [
                each.contract.subject,
                each.contract.role,
                each.verdict,
                "-" if each.version is None else str(each.version),
            ]
            for each in standings
        ]
        if table:
            draw(shell, ["SUBJECT", "ROLE", "VERDICT", "VERSION"], table, right={3}, elastic={0})
        for each in standings:
            shell.lines(f"{each.contract.subject}: {problem}" for problem in each.problems)
