"""A bar for what takes long and is counted, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .shell import Shell


@contextmanager
def counting(shell: Shell, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how far something is, on standard error and where somebody watches.

    Args:
        shell: where to.
        what: is being done.
        total: how many there are; None where that is not known.

    Returns:
        To be called with how many are done.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=shell.err,
        disable=shell.quiet or not shell.err.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
