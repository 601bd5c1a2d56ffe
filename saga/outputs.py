"""What `advance` asks to be published, as a line of JSON and back: equal lines are equal outputs."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json, to_json

from .inputs import Announce, Ask, Output, Send, Tell
from .instance import Fact, Parent


def write_output(output: Output) -> str:
    """Write an output; what has its usual value is left out."""
    if isinstance(output, Announce):
        told: dict[str, Any] = {"announce": output.type}
    elif isinstance(output, Tell):
        told = {"tell": output.type, "to": list(output.to), "undo": output.undo, "empty": output.empty}
    elif isinstance(output, Ask):
        told = {"ask": output.kind, "step": output.step}
    else:
        told = {"kind": output.kind, "step": output.step, "type": output.type, "attempt": output.attempt}
        if output.again:
            told["again"] = True
        if output.undoes:
            told["undoes"] = [list(fact) for fact in output.undoes]
    return to_json(told).decode()


def read_output(text: str) -> Output:
    """Read what `write_output` wrote."""
    told = from_json(text)
    if "announce" in told:
        return Announce(told["announce"])
    if "tell" in told:
        return Tell(told["tell"], Parent(*told["to"]), told["undo"], told["empty"])
    if "ask" in told:
        return Ask(told["ask"], told["step"])
    undoes = tuple(Fact(*fact) for fact in told.pop("undoes", ()))
    return Send(**told, undoes=undoes)
