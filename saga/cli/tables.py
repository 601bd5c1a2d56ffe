"""Tables without lines: columns as wide as they need, the last ones cut where the terminal ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from .shell import UNLIMITED, Shell

if TYPE_CHECKING:
    from rich.text import Text

Cell = "str | Text"
_GAP = 2


def draw(
    shell: Shell,
    headers: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    *,
    right: Collection[int] = (),
    elastic: Collection[int] = (),
) -> None:
    """Print a table.

    Args:
        shell: where to.
        headers: one for each column.
        rows: the cells; a Text may be coloured.
        right: columns that are aligned to the right.
        elastic: columns that are shortened first, the widest most; then the last column is cut.
    """
    for line in lay_out(headers, rows, shell.out.width, right=right, elastic=elastic):
        shell.out.print(line, no_wrap=True, overflow="ellipsis", crop=shell.out.width != UNLIMITED)


def lay_out(
    headers: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    width: int,
    *,
    right: Collection[int] = (),
    elastic: Collection[int] = (),
) -> list[Text]:
    """Lay a table out as lines; see `draw`."""
    from rich.text import Text

    cells = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    widths = [max([len(header), *(row[i].cell_len for row in cells)]) for i, header in enumerate(headers)]
    shrink(widths, width - _GAP * (len(widths) - 1), elastic)
    lines = [_line([Text(header, "bold") for header in headers], widths, right)] if any(headers) else []
    lines += [_line(row, widths, right) for row in cells]
    return lines


def shrink(widths: list[int], room: int, elastic: Collection[int], least: int = 8) -> None:
    """Take from the elastic columns, the widest first, until all fit or none is above its least width."""
    over = sum(widths) - room
    while over > 0:
        widest = max((i for i in elastic if widths[i] > least), key=lambda i: widths[i], default=None)
        if widest is None:
            return
        widths[widest] -= 1
        over -= 1


def _line(cells: Sequence[Text], widths: Sequence[int], right: Collection[int]) -> Text:
    from rich.text import Text

    line = Text()
    for i, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        shown = cell.copy()
        if shown.cell_len > width:
            shown.truncate(width, overflow="ellipsis")
        padding = " " * (width - shown.cell_len)
        last = i == len(cells) - 1
        line.append_text(Text(padding) + shown if i in right else shown)
        if not last:
            line.append(("" if i in right else padding) + " " * _GAP)
    line.rstrip()
    return line
