"""What every command has: the global options, the settings they lead to, and two ways out, data and hints."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TextIO

from .glyphs import ASCII
from .times import TimeStyle

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ...events.database import Database
    from ...events.settings import Settings

Output = Literal["text", "wide", "json", "jsonl", "id", "mermaid", "otlp-json", "junit", "github"]
Color = Literal["auto", "always", "never"]

UNLIMITED = 10_000
"""Width of what goes into a file or a pipe: nothing is cut there."""

_PIPED_PAGE = 120


@dataclass(frozen=True, kw_only=True)
class Shell:
    """The global options of one call.

    Args:
        broker, store, home, prefix: override the settings where they are given.
        context: of `choreo.toml`, instead of the one in use.
        output: what goes to standard output.
        time: how times are shown; None is each command's own way.
        color: whether to use colours.
        ascii: no other characters than ASCII ones.
        pager: show what is long in the pager, on a terminal.
        quiet: only data and errors.
        verbose: how many `-v`.
    """

    broker: str = ""
    store: str = ""
    home: str = ""
    prefix: str = ""
    context: str = ""
    output: Output = "text"
    time: TimeStyle | None = None
    color: Color = "auto"
    ascii: bool = False
    pager: bool = True
    quiet: bool = False
    verbose: int = 0

    @classmethod
    def silent(cls, settings: Settings) -> Shell:
        """Make one that prints no hints, for a process with settings of its own that uses a command's functions."""
        made = cls(quiet=True)
        vars(made)["settings"] = settings  # in place of what the environment and its contexts say
        return made

    @property
    def machine(self) -> bool:
        """Whether standard output is for a program."""
        return self.output in ("json", "jsonl")

    @property
    def interactive(self) -> bool:
        """Whether somebody watches a terminal that can be drawn on."""
        return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not self.machine

    @cached_property
    def settings(self) -> Settings:
        """The settings, with these options over them.

        Raises:
            ConfigurationError: one is wrong.
        """
        from ...events.settings import load_settings

        broker = as_broker(self.broker)
        given = {"store": self.store, "home": self.home, "topic_prefix": self.prefix, "context": self.context}
        return load_settings(broker=broker, **given)

    @cached_property
    def page(self) -> int:
        """The width to draw for: the terminal's, or that of a page."""
        return self.out.width if self.out.width != UNLIMITED else _PIPED_PAGE

    @cached_property
    def out(self) -> Console:
        """Standard output."""
        return self._console(sys.stdout)

    @cached_property
    def err(self) -> Console:
        """Standard error."""
        return self._console(sys.stderr)

    def show(self, what: RenderableType = "") -> None:
        """Print data."""
        self.out.print(what, soft_wrap=isinstance(what, str))

    def lines(self, lines: Iterable[str]) -> None:
        """Print lines as they are."""
        for line in lines:
            self.out.file.write(line + "\n")
        self.out.file.flush()

    def json(self, value: Any) -> None:
        """Print JSON: one object or list, indented for `-o json`, or one line per element for `-o jsonl`."""
        if self.output == "jsonl":
            self.lines(_compact(each) for each in (value if isinstance(value, list) else [value]))
        else:
            self.lines([json.dumps(value, ensure_ascii=False, indent=2)])

    def json_line(self, value: Any) -> None:
        """Print one object of a stream."""
        self.lines([_compact(value)])

    def hint(self, what: RenderableType) -> None:
        """Print a hint or a footer, unless `-q`."""
        if not self.quiet:
            self.err.print(what, soft_wrap=isinstance(what, str))

    def complain(self, message: str, *, kind: str, code: int) -> None:
        """Print an error: one line, or JSON where the output is JSON."""
        line = " ".join(message.split())
        if self.machine:
            error = {"schema": "saga.error/v1", "error": kind, "message": line, "exit_code": code}
            self.err.file.write(_compact(error) + "\n")
        else:
            self.err.file.write(f"error: {line}\n")

    @asynccontextmanager
    async def sagas(self) -> AsyncIterator[Database]:
        """Open the coordinator's store; one that is not there is not made.

        Raises:
            StoreUnreachable: there is none, or it does not answer.
            StoreMismatch: it is of another release.
        """
        from ..looking import opened

        async with opened(self.settings.store_url) as database:
            yield database

    def _console(self, stream: TextIO) -> Console:
        from rich.console import Console

        terminal = stream.isatty()
        coloured = wants_color(self.color, os.environ, terminal)
        plain = self.ascii or not _speaks_unicode(stream)
        columns = os.environ.get("COLUMNS", "")
        width = None if terminal else int(columns) if columns.isdigit() and int(columns) > 0 else UNLIMITED
        return Console(
            file=_Ascii(stream) if plain else stream,  # type: ignore[arg-type]
            force_terminal=terminal or coloured,
            color_system=None if not coloured else "auto" if terminal else "standard",
            no_color=False,
            width=width,
            highlight=False,
            markup=False,
            emoji=False,
            safe_box=False,
        )


class _Ascii:
    """A stream on which every glyph of ours becomes its ASCII twin."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "ascii"
        plain = text.translate(ASCII).encode(encoding, "backslashreplace").decode(encoding)
        return self._stream.write(plain)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def wants_color(flag: Color, environ: os._Environ[str] | dict[str, str], terminal: bool) -> bool:
    """Decide on colours: the flag, `NO_COLOR`, `CLICOLOR_FORCE` or `FORCE_COLOR`, `TERM=dumb`, then the terminal."""
    if flag != "auto":
        return flag == "always"
    if environ.get("NO_COLOR"):
        return False
    if any(environ.get(name, "0") not in ("", "0") for name in ("CLICOLOR_FORCE", "FORCE_COLOR")):
        return True
    return terminal and environ.get("TERM") != "dumb"


def as_broker(text: str) -> str:
    """Take `host:port` for Kafka, as `--bootstrap` is written elsewhere."""
    return f"kafka://{text}" if re.fullmatch(r"(?!memory:|local:)[\w.-]+:\d+(,[\w.-]+:\d+)*", text) else text


def _speaks_unicode(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
