"""How long a handler was waited for and how long it ran, as what it published tells: one optional header.

The coordinator keeps it with the event as text, and only who shows a saga reads it: nothing is decided by it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

HEADER = "handled-ms"

_LONGEST = 64
_FORM = re.compile(r"(\d{0,15}),(\d{1,15})(?:,([0-9a-f]{16}))?")


class Handled(NamedTuple):
    """What the header says.

    Args:
        queued: milliseconds from the input's timestamp to the handler's start; None where that is not known, as of a
            second try.
        ran: milliseconds from its start to its answer.
        span_id: of its span, 16 hexadecimal digits; None where there is none.
    """

    queued: int | None
    ran: int
    span_id: str | None


def write_handled(queued: int, ran: int, span_id: str) -> tuple[str, bytes]:
    """Give the header.

    Args:
        queued: milliseconds; negative where it is not known, or two clocks disagree.
        ran: milliseconds.
        span_id: "" where there is none.
    """
    told = f"{queued if queued >= 0 else ''},{ran if ran > 0 else 0}"
    return HEADER, (f"{told},{span_id}" if span_id else told).encode()


def read_handled(value: bytes) -> str | None:
    """Give a header's value as it is kept; None for what cannot be one. Its form is left to whoever shows it."""
    return value.decode() if len(value) < _LONGEST and value.isascii() else None


def parse_handled(text: str) -> Handled | None:
    """Read a header's value; None where it has another form."""
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    queued, ran, span_id = found.groups()
    return Handled(int(queued) if queued else None, int(ran), span_id)
