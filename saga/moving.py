"""Move live sagas to another version of their definition: asked for as a command, applied by a coordinator (R17).

A saga is moved where its history reads the same under the new version as far as it has come; what would differ stays
where it is. The move is an input of its own in the history, so that every later replay honours it (S17).
"""

from __future__ import annotations

import json
from typing import Any

from ..events.errors import Refused
from . import recorded
from .batch import Batch
from .difference import tried
from .inputs import Migrated
from .names import parse_saga_id
from .replay import moved

KIND = "upgrade"


def target(type_: str, version: int) -> str:
    """Name a version, in place of a saga, as what a command is about."""
    return f"{type_}@{version}"


def apply(batch: Batch, about: str, arguments: dict[str, Any], by: str, reason: str) -> str:
    """Move the named sagas, each if nothing would differ.

    Args:
        batch: one transaction.
        about: the version that they move to, as `target` names it.
        arguments: `sagas`, their names, and `hash` of the definition that was tried on them.
        by, reason: who and why.

    Returns:
        JSON: how many were moved, and the first difference of each that stayed.

    Raises:
        Refused: that version has another content here.
    """
    type_, _, version = about.partition("@")
    new = batch.knowledge.declarations[type_, int(version)].definition
    if new.hash != arguments["hash"]:
        raise Refused(f"version {version} of {type_} is loaded with another content than the one that was tried")
    names = [parse_saga_id(id_) for id_ in arguments["sagas"]]
    batch.load_keys([(name.type, name.key) for name in names])  # locks them
    definitions = recorded.definitions_of(batch.connection, type_)
    count, stayed = 0, []
    for saga in recorded.read(batch.connection, arguments["sagas"]):
        instance = saga.instance
        work = batch.saga(instance.type, instance.key, instance.run)
        if work is None or instance.phase.ended or instance.version == new.version:
            continue
        difference = tried(saga, definitions, new, batch.now)
        if difference is not None:
            stayed.append({"id": instance.id, "difference": difference._asdict()})
            continue
        input_ = Migrated(instance.version, new.version, new.hash, by, reason)
        batch.migrate(work, moved(new, saga.beginning, saga.inputs, input_, batch.now), input_)
        count += 1
    return json.dumps({"moved": count, "stayed": stayed})
