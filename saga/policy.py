"""What happens to an event that changes nothing by itself: ignored, shown to a person, or taken as a reason to undo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..events.errors import DefinitionError

Reaction = Literal["ignore", "ask", "undo"]
Stray = Literal["unexpected", "duplicate", "late"]
"""How an event may come in vain."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What to do with an event of one type when it comes in vain (rows 2 and 3); made by `policy()`.

    Args:
        unexpected: nothing in the running saga expects it.
        duplicate: what it tells has been told already, by an event with another id.
        late: the saga has ended.
    """

    unexpected: Reaction = "ignore"
    duplicate: Reaction = "ignore"
    late: Reaction = "ignore"

    def reaction(self, stray: Stray) -> Reaction:
        """Give what to do in one of the cases."""
        found: Reaction = getattr(self, stray)
        return found


DEFAULT_POLICY = Policy()


def policy(*, unexpected: Reaction = "ignore", duplicate: Reaction = "ignore", late: Reaction = "ignore") -> Policy:
    """Say what to do with an event of one type when it comes in vain.

    "ignore" keeps it in the history and shows `Unexpected`. "ask" also lets the saga wait for a person, who says
    `saga dismiss` (it is of no importance) or `saga cancel` (undo it all). "undo" undoes the saga, one that had ended
    well too; after the pivot that cannot be, and a person is asked.

    Args:
        unexpected: nothing in the running saga expects it, such as the answer to an undo that nobody sent.
        duplicate: what it tells has been told already, by an event with another id; a copy with the same id is dropped
            before it comes to this (row 4).
        late: the saga has ended.

    Raises:
        DefinitionError: a word is none of the three.
    """
    made = Policy(unexpected, duplicate, late)
    for stray in get_args(Stray):
        if made.reaction(stray) not in get_args(Reaction):
            raise DefinitionError(
                f"policy({stray}={made.reaction(stray)!r}): write {' or '.join(map(repr, get_args(Reaction)))}"
            )
    return made
