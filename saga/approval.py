"""`approval()`: a step that a person answers."""

from __future__ import annotations

from typing import Any, overload

from ..events.event import Event
from .definition import UNDO_WITHIN
from .step import After, D, DeclaredStep, Duration, StepOptions, When, several


@overload
def approval(
    *,
    who: str,
    within: Duration,
    approved: type[D] | tuple[type[D], ...],
    rejected: type[Event] | tuple[type[Event], ...] = (),
    after: After = (),
    when: When | None = None,
    optional: bool = False,
) -> DeclaredStep[D]: ...
@overload
def approval(
    *,
    who: str,
    within: Duration,
    rejected: type[Event] | tuple[type[Event], ...] = (),
    after: After = (),
    when: When | None = None,
    optional: bool = False,
) -> DeclaredStep[Event]: ...
def approval(
    *,
    who: str,
    within: Duration,
    approved: type[Event] | tuple[type[Event], ...] = (),
    rejected: type[Event] | tuple[type[Event], ...] = (),
    after: After = (),
    when: When | None = None,
    optional: bool = False,
) -> DeclaredStep[Any]:
    """Declare a step that a person answers: with `saga approve` or `saga reject`, or a service with an event.

    The saga shows `WaitingForPerson` until then. A rejection, and no answer in time, fail the step; nothing has
    happened then, so it needs no undo. Where a person has approved it, it has no done event: ask `saga.maybe(...)`.

    Args:
        who: should answer, e.g. `"credit"`: shown to people, nobody is checked.
        within: the longest wait for the answer, e.g. `"2d"`.
        approved: event classes that approve it too.
        rejected: event classes that reject it too.
        after: as for `step()`.
        when: as for `step()`: False needs no approval.
        optional: the saga goes on without it.

    Raises:
        DefinitionError: when the saga class is defined, naming step, field and remedy.
    """
    options = StepOptions(
        failed=several(rejected),
        after=after if isinstance(after, tuple) else (after,),
        within=within,
        undo=None,
        undone=(),
        send=None,
        pivot=False,
        optional=optional,
        retry=None,
        undo_retry=None,
        undo_within=UNDO_WITHIN / 1_000_000,
        when=when,
        approval=who,
    )
    return DeclaredStep(several(approved), options)
