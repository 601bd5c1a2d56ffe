"""Which schemas a program writes and reads, and how they stand to a registry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from urllib.parse import unquote

from ..events.avro import Schema, canonical
from ..events.codec import subject_of
from ..events.compatibility import check_backward
from ..events.errors import ConfigurationError
from ..events.event import Event
from ..events.registry import SchemaRegistry
from ..events.schema_folder import SUFFIX, read_schema
from ..services.service import Service
from .loading import load_object
from .saga import Saga

Role = Literal["writes", "reads"]
Verdict = Literal["new", "registered", "compatible", "incompatible", "unregistered"]


@dataclass(frozen=True)
class Contract:
    """A schema that a program needs.

    Args:
        subject: of the registry.
        name: the event class, or the file.
        schema: the program's.
        role: whether the program publishes such events, or only reads them.
    """

    subject: str
    name: str
    schema: Schema
    role: Role


@dataclass(frozen=True)
class Standing:
    """How a contract stands to a registry.

    Args:
        contract: which.
        verdict: `registered` already; `new`: the subject's first one; `compatible` with what is there; `incompatible`;
            `unregistered`: only read, and nobody has registered one so far.
        version: that it has there, or that it was held against.
        problems: one sentence for each field that breaks a rule.
    """

    contract: Contract
    verdict: Verdict
    version: int | None
    problems: tuple[str, ...] = ()


def load_contracts(targets: Iterable[str]) -> list[Contract]:
    """Load the schemas of what a command line names: services, sagas, modules, Event classes, `.avsc` files.

    A class that a service or saga only takes is read; everything else is written: what they publish, a class that is
    named itself, and one of a named module that nobody there takes. Events in JSON have no schema.

    Raises:
        ConfigurationError: nothing is there, or it is something else.
    """
    found: dict[str, Contract] = {}
    written: dict[type[Event], None] = {}
    read: dict[type[Event], None] = {}
    beside: dict[type[Event], None] = {}
    for target in targets:
        if target.endswith(SUFFIX):
            path = Path(target)
            subject = unquote(path.name.removesuffix(SUFFIX))
            found[subject] = Contract(subject, path.name, read_schema(path), "writes")
            continue
        parts = list(_parts(load_object(target)))
        if not parts:
            raise ConfigurationError(f"{target} holds no service, no saga and no event class")
        for part, named in parts:
            if isinstance(part, Service):
                written |= dict.fromkeys(part.produces)
                read |= dict.fromkeys(event for handler in part.handlers for event in handler.events)
            elif issubclass(part, Saga):
                declaration = part.declaration()
                sent = {*declaration.builds, *declaration.definition.start}
                for type_, cls in sorted(declaration.events.items()):
                    (written if type_ in sent else read)[cls] = None
            else:
                (written if named else beside)[part] = None
    written |= {cls: None for cls in beside if cls not in read}
    for role, classes in (("writes", written), ("reads", [cls for cls in read if cls not in written])):
        for cls in classes:
            spec = cls.spec()
            if spec.schema is not None:
                subject = subject_of(spec.topic, spec.type)
                found.setdefault(subject, Contract(subject, cls.__name__, spec.schema, role))  # type: ignore[arg-type]
    return sorted(found.values(), key=lambda contract: contract.subject)


async def standing(contract: Contract, registry: SchemaRegistry) -> Standing:
    """Hold a contract against a registry, without changing anything there."""
    there = await registry.history(contract.subject)
    text = canonical(contract.schema)
    same = next((each for each in reversed(there) if canonical(each.schema) == text), None)
    if same is not None and (contract.role == "writes" or same is there[-1]):
        return Standing(contract, "registered", same.version)
    if not there:
        return Standing(contract, "new" if contract.role == "writes" else "unregistered", None)
    if contract.role == "writes":
        problems = await registry.objections(contract.subject, contract.schema)
    else:
        problems = check_backward(contract.schema, there[-1].schema)
    return Standing(contract, "incompatible" if problems else "compatible", there[-1].version, tuple(problems))


def _parts(found: Any) -> Iterator[tuple[Service | type[Saga] | type[Event], bool]]:
    """Give what a target holds, and whether it was named itself."""
    if isinstance(found, ModuleType):
        names = getattr(found, "__all__", None) or vars(found)
        for value in [getattr(found, name) for name in names]:
            for part, _ in _parts(value) if not isinstance(value, (ModuleType, list, tuple, set, frozenset)) else ():
                yield part, False
    elif isinstance(found, (list, tuple, set, frozenset)):
        for each in found:
            yield from _parts(each)
    elif isinstance(found, Service) or (isinstance(found, type) and _is_declared(found)):
        yield found, True


def _is_declared(cls: type) -> bool:
    if issubclass(cls, Saga):
        return cls.__declaration__ is not None
    return issubclass(cls, Event) and cls.__choreo_options__.topic is not None
