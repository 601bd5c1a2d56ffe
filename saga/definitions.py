"""Register definitions in the store and announce them to the services, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, select

from ..events.catalog import DefinitionAnnouncement, StepAnnouncement
from ..events.errors import DefinitionError
from ..events.failures import FAILURES_TOPIC
from . import retention, store, ticks
from .declaration import Declaration
from .definition import Definition
from .tables import definition as definition_table

Loaded = Mapping[tuple[str, int], Declaration]


def load(declarations: Iterable[Declaration]) -> dict[tuple[str, int], Declaration]:
    """Index declarations by type and version.

    Raises:
        DefinitionError: two different ones claim the same version.
    """
    found: dict[tuple[str, int], Declaration] = {}
    for declaration in declarations:
        definition = declaration.definition
        known = found.setdefault((definition.type, definition.version), declaration)
        if known.definition.hash != definition.hash:
            raise _two_contents(definition)
    return found


def newest(loaded: Loaded) -> dict[str, Declaration]:
    """Give the declaration that new instances of each type get."""
    return {type_: loaded[type_, version] for type_, version in sorted(loaded)}


def register(
    connection: Connection, loaded: Loaded, now: int
) -> tuple[dict[tuple[str, int], Definition], dict[str, int]]:
    """Register what is loaded and read what is registered.

    Returns:
        Every definition by type and version, and where the history of each type begins (ruling R2), microseconds.

    Raises:
        DefinitionError: a version is registered with another content (ruling R13).
    """
    known = store.stored_definitions(connection)
    begins: dict[str, int] = {}
    for (type_, _), (_, _, active_from) in known.items():
        begins[type_] = min(active_from, begins.get(type_, active_from))
    for key, declaration in sorted(loaded.items()):
        definition = declaration.definition
        if key in known and known[key][1] != definition.hash:
            raise _two_contents(definition)
        begins.setdefault(definition.type, _begin(definition, now))
        store.save_definition(connection, definition, now, begins[definition.type])
    retention.raise_begins(begins, retention.horizons(connection))
    definitions = {key: definition for key, (definition, _, _) in known.items()}
    definitions.update({key: declaration.definition for key, declaration in loaded.items()})
    ticks.register(connection, newest(loaded), definitions, begins, now)
    return definitions, begins


def registered_since(
    connection: Connection, known: Mapping[tuple[str, int], Definition]
) -> dict[tuple[str, int], Definition] | None:
    """Read the definitions that other coordinators have registered meanwhile; None where there is nothing new."""
    keys = connection.execute(select(definition_table.c.type, definition_table.c.version)).all()
    if all((type_, version) in known for type_, version in keys):
        return None
    return {key: definition for key, (definition, _, _) in store.stored_definitions(connection).items()}


def topics(definitions: Iterable[Definition]) -> set[str]:
    """Name the topics without which these cannot run: those that they read, with their dead letters', and write."""
    read = {FAILURES_TOPIC}.union(*(definition.consumed_topics for definition in definitions))
    written = {topic for definition in definitions for topic in definition.topics.values()}
    return written | read | {f"{topic}.dlq" for topic in read}


def announcements(definitions: Sequence[Definition], namespace: str) -> list[DefinitionAnnouncement]:
    """Make what services need to know of these definitions."""
    return [
        DefinitionAnnouncement(
            type=definition.type,
            version=definition.version,
            hash=definition.hash,
            namespace=namespace,
            start=list(definition.start),
            cancel=list(definition.cancel),
            completed=definition.completed,
            compensated=definition.compensated,
            key=definition.key,
            correlate=dict(definition.correlate),
            topics=dict(definition.topics),
            rerun=definition.rerun,
            observe_only=definition.observe_only,
            steps=[
                StepAnnouncement(
                    name=step.name,
                    index=step.index,
                    after=list(step.before),
                    follows=list(definition.triggers[step.name]),
                    done=list(step.done),
                    failed=list(step.failed),
                    send=step.send,
                    undo=step.undo,
                    undone=list(step.undone),
                    pivot=step.pivot,
                    optional=step.optional,
                    each=step.each,
                    by=step.by,
                )
                for step in definition.steps
            ],
        )
        for definition in definitions
    ]


def _begin(definition: Definition, now: int) -> int:
    if definition.active_from == "beginning":
        return 0
    # Records carry whole milliseconds: one written in the same millisecond must not look older.
    return now - now % 1_000 if isinstance(definition.active_from, str) else definition.active_from


def _two_contents(definition: Definition) -> DefinitionError:
    return DefinitionError(
        f"saga {definition.type}: version {definition.version} exists with another content; "
        f"running instances depend on it, so give this one version={definition.version + 1}",
        saga_type=definition.type,
    )
