"""Command lines run for somebody who does not type: each in a process of its own, answered by what it printed."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ...events.database import redacted
from ...events.errors import ConfigurationError, StoreUnreachable
from .shell import Shell

_MOST_OUTPUT = 4_000_000


class Said(NamedTuple):
    """What a command said: its line as one types it, the exit code, the JSON on standard output, the rest as lines."""

    line: str
    code: int
    answer: Any
    remarks: tuple[str, ...]


class Commanding:
    """Runs commands with the same global options as this one.

    Args:
        shell: whose options.
        timeout: how long a command may take, seconds.
    """

    def __init__(self, shell: Shell, timeout: float) -> None:
        self._common = tuple(_common(shell))
        self._timeout = timeout

    async def run(
        self, command: Sequence[str], arguments: Sequence[str] = (), options: Mapping[str, object] | None = None
    ) -> Said:
        """Run one command with `-o json`.

        Args:
            command: its name, such as ("dlq", "list").
            arguments: its positional arguments.
            options: by name; False, None and empty ones are left out, True is a flag, a list repeats the option.

        Raises:
            ConfigurationError: an argument looks like an option.
            StoreUnreachable: it did not end in time.
        """
        for each in arguments:
            if each.startswith("-"):  # what an assistant was told by a stranger must not become an option
                raise ConfigurationError(f"{each!r} begins with a dash; ids, steps and ends of names do not")
        words = [*command, *arguments, *_words(options or {}), *self._common]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "choreo",
            *words,
            "-o",
            "json",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(self._timeout):
                out, err = await process.communicate()
        except TimeoutError:
            raise StoreUnreachable(f"saga {command[0]} has not answered within {self._timeout:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        line = shlex.join(["saga", *(each if "://" not in each else redacted(each) for each in words)])
        if len(out) > _MOST_OUTPUT:
            raise ConfigurationError(
                f"the answer of {line} has {len(out):,} bytes; ask for fewer with filters or limit"
            )
        told = err.decode(errors="replace").splitlines()
        return Said(line, process.returncode or 0, json.loads(out) if out.strip() else None, tuple(told))


def _common(shell: Shell) -> Iterator[str]:
    """Give the options that choose the installation."""
    for name in ("broker", "store", "home", "prefix", "context"):
        if value := getattr(shell, name):
            yield f"--{name}={value}"


def _words(options: Mapping[str, object]) -> Iterator[str]:
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            yield option
        elif isinstance(value, list | tuple):
            yield from (f"{option}={each}" for each in value)
        elif value not in (None, False, ""):
            yield f"{option}={value}"
