"""`saga why`: what a saga waits for, why it does not come, what happens if nothing changes, and what one can do."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from . import exits
from .shell import Shell
from .suggesting import SagaName

if TYPE_CHECKING:
    from ..why import Explanation

_INDENT = 10
_LEAST_ROOM = 30


async def why(saga: SagaName, /, *, shell: Annotated[Shell, Parameter(parse=False)]) -> int:
    """Say what a saga waits for, who should answer and why they have not, what happens next by itself, and what to do.

    It joins the saga's state and history with the broker: consumer groups, lag, topics and what services announce. With
    the broker down it says so, and what the store knows.

    Args:
        saga: type/key, the key alone where only one type has it, @latest or @latest:type.
    """
    from ..explaining import explain_saga
    from .observing import survey

    async with shell.sagas() as database:
        explained = await explain_saga(database, saga, lambda topics: survey(shell.settings, topics))
    if shell.machine:
        shell.json(explained.as_json())
    else:
        _draw(shell, explained.explanation, explained.at)
        if explained.id is not None:
            shell.hint(f"next  saga status {explained.id} · saga status {explained.id} --history")
    return exits.OK


def _draw(shell: Shell, explanation: Explanation, now: int) -> None:
    lines, before = [explanation.headline], ""
    for label, text in explanation.lines(now):
        lines += _field("" if label == before else label, text, shell.out.width)
        before = label
    shell.lines(lines)


def _field(name: str, text: str, width: Any) -> list[str]:
    room = max(min(int(width), 120) - _INDENT, _LEAST_ROOM)
    return [
        f"  {name if not number else '':<{_INDENT - 2}}{line}"
        for number, line in enumerate(wrap(text, room, break_on_hyphens=False, break_long_words=False) or [""])
    ]
