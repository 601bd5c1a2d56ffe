"""What a coordinator knows besides its store: code, definitions, the catalog, and how to read and write events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ..events.catalog import ServiceAnnouncement
from ..events.codec import Codec
from .commands import Sender
from .declaration import Declaration
from .definition import Definition
from .instance import Instance


@dataclass(frozen=True)
class Knowledge:
    """What a coordinator knows besides its store.

    Args:
        declarations: loaded code, by type and version.
        newest: the declaration that new instances of a type get.
        definitions: every definition in the store, by type and version.
        catalog: the services' announcements, by service.
        codec: prepared for everything that is sent.
        unreadable: schema ids that the registry does not know: what they would read cannot be read.
        sampled: decides whether a new saga's trace is recorded, from its name and its origin's traceparent.
        sender: how what is sent is marked.
        rotation: after how long a new saga's trace goes on in another one, microseconds; None: never.
        emits: spans are emitted; else every saga is marked as if they were, so that no other process makes up for it.
    """

    declarations: Mapping[tuple[str, int], Declaration]
    newest: Mapping[str, Declaration]
    definitions: Mapping[tuple[str, int], Definition]
    catalog: Mapping[str, ServiceAnnouncement]
    codec: Codec
    sampled: Callable[[str, str | None], bool]
    sender: Sender
    unreadable: set[int] = field(default_factory=set)
    rotation: int | None = None
    emits: bool = True

    @cached_property
    def unloaded(self) -> tuple[tuple[str, int], ...]:
        """The versions in the store whose code is not loaded here."""
        return tuple(sorted(set(self.definitions) - set(self.declarations)))

    @cached_property
    def locking(self) -> frozenset[tuple[str, int]]:
        """The versions that are loaded here and take a lock."""
        return frozenset(key for key, each in self.declarations.items() if each.definition.lock is not None)

    @cached_property
    def limits(self) -> Mapping[str, int | None]:
        """By the types that are loaded here, how many sagas may be open; None where any number may."""
        new = {type_: each.definition for type_, each in self.newest.items()}
        return {type_: None if each.observe_only else each.max_open for type_, each in new.items()}

    def loads(self, instance: Instance) -> bool:
        """Tell whether the code that an instance runs under is loaded here."""
        return (instance.type, instance.version) in self.declarations

    def secrets(self, topic: str) -> tuple[str, ...]:
        """List where events of a topic may hold secrets, by the classes that are loaded."""
        specs = [cls.spec() for each in self.declarations.values() for cls in each.events.values()]
        return tuple(sorted({path for spec in specs if spec.topic == topic for path in spec.secrets}))

    @cached_property
    def hidden(self) -> Mapping[str, tuple[str, ...]]:
        """Where events hold secrets that no schema tells of, by their type: for who reads them without the class."""
        specs = [cls.spec() for each in self.declarations.values() for cls in each.events.values()]
        return {each.type: each.secrets for each in specs if each.secrets and (each.foreign or each.format == "json")}

    def newest_of(self, type_: str) -> Definition | None:
        """Give the definition that new instances of a type get; None where no version of it is loaded here."""
        found = self.newest.get(type_)
        return None if found is None else found.definition

    def definition(self, instance: Instance) -> Definition:
        """Give the definition that an instance runs under.

        Raises:
            UnknownDefinition: read the registered ones again.
        """
        found = self.definitions.get((instance.type, instance.version))
        if found is None:
            raise UnknownDefinition(instance.type, instance.version)
        return found


class UnknownDefinition(Exception):
    """A saga runs under a version that another coordinator has registered since this one started."""

    def __init__(self, type_: str, version: int) -> None:
        super().__init__(f"saga {type_}: version {version} is not known here yet")
        self.key = (type_, version)
