"""Which sagas a saga has begun, and which has begun it, as people see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from .definition import Definition
from .instance import Instance
from .names import saga_id
from .occurrence import base_of
from .tables import sent


def children(connection: Connection, definition: Definition, id_: str) -> dict[str, str]:
    """Find the sagas that one has begun: their names by the step that did.

    Args:
        connection: within a read.
        definition: of the parent.
        id_: its name.
    """
    if not definition.children:
        return {}
    query = select(sent.c.step, sent.c.key).where(sent.c.saga_id == id_, sent.c.kind == "do").order_by(sent.c.at)
    begun = {row.step: (row.key or b"").decode() for row in connection.execute(query)}
    types = {name: plan.child for name, plan in definition.children.items()}
    return {step: saga_id(type_, key) for step, key in begun.items() if (type_ := types.get(base_of(step))) is not None}


def told(instance: Instance, children: Mapping[str, str]) -> dict[str, Any]:
    """Tell a saga's parent, with the step that it is there, and its children by their steps."""
    parent = instance.parent
    return {
        "parent": None if parent is None else {"id": parent.id, "step": parent.step, "depth": parent.depth},
        "children": dict(children),
    }


def relatives(told: Mapping[str, Any]) -> list[str]:
    """Name those that one may want to look at next: children whose steps are not over, and the parent."""
    states = {step["name"]: step["state"] for step in told["steps"]}
    over = ("COMPENSATED", "SKIPPED") if told["phase"] != "COMPLETED" else ("DONE",)
    found = [child for step, child in told["children"].items() if states.get(step) not in over]
    return [*found, *([told["parent"]["id"]] if told["parent"] is not None else [])]
