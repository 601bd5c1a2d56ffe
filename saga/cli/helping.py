"""`saga help`: what does not fit into `--help`."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from . import exits
from .shell import Shell


def help_(topic: Literal["exit-codes"], *, shell: Annotated[Shell, Parameter(parse=False)]) -> None:
    """Explain a topic.

    Args:
        topic: exit-codes.
    """
    if shell.machine:
        lines = (line.split(maxsplit=1) for line in exits.TABLE.splitlines())
        shell.json([{"code": int(code), "meaning": meaning} for code, meaning in lines])
    else:
        shell.lines(exits.TABLE.splitlines())
