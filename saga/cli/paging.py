"""What is long goes through the person's pager, on a terminal only."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from .shell import Shell


@contextmanager
def paged(shell: Shell, *, when: bool = True) -> Iterator[None]:
    """Show what is printed within in the pager, where standard output is a terminal and has less room than that.

    Args:
        shell: where to; `--no-pager` prints it as it is.
        when: only then.
    """
    command = pager(os.environ) if when and shell.pager and shell.interactive else []
    if not command:
        yield
        return
    with shell.out.capture() as captured:
        yield
    text = captured.get()
    if text.count("\n") < shell.out.height:
        shell.out.file.write(text)
        shell.out.file.flush()
        return
    try:
        # Short options of `less`: colours, long lines as they are; the person's own settings count more.
        subprocess.run(command, input=text.encode(), check=False, env={"LESS": "FRX", **os.environ})
    except OSError as error:
        shell.out.file.write(text)
        shell.hint(f"⚠ the pager {command[0]} cannot be run: {error.strerror or error}")


def pager(environ: Mapping[str, str]) -> list[str]:
    """Give the command of the pager: `SAGA_PAGER`, else `PAGER`, else none; one that is set to nothing is none, too."""
    return shlex.split(environ.get("SAGA_PAGER", environ.get("PAGER", "")))
