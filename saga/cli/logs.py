"""Logs go to standard error: lines for people, JSON with `CHOREO_LOG=json`; warnings only unless `-v`.

With JSON every line of the process is one object, those of the standard library's loggers too, with the ids of the
event, saga and trace that it belongs to.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from .shell import Shell


def configure(shell: Shell) -> None:
    """Set up structlog and the standard library's logging, of which libraries of ours speak only when asked.

    Args:
        shell: `-q` shows errors only, `-v` what happens, `-vv` everything.
    """
    level = logging.ERROR if shell.quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(shell.verbose, 2)]
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if as_json():
        processors += [_with_ids, structlog.processors.JSONRenderer()]
    else:
        from .shell import wants_color

        colors = wants_color(shell.color, os.environ, sys.stderr.isatty())
        processors += [_without_traces, structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0)]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # One write for each line: handlers log from threads, and what logging writes would get before a line end.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.getLogger("aiosqlite").setLevel(logging.INFO)  # below it quotes statements with their values, secrets too
    # A broker that is away gives one line of ours; the client's own twenty come with -v.
    logging.basicConfig(level=logging.CRITICAL if shell.verbose == 0 else level, stream=sys.stderr)
    if as_json():
        for handler in logging.getLogger().handlers:
            handler.setFormatter(_json_formatter())


def as_json() -> bool:
    """Whether logs are JSON."""
    return os.environ.get("CHOREO_LOG", "") == "json"


def _json_formatter() -> logging.Formatter:
    """Write a line of the standard library's logging as ours are."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _with_ids,
            structlog.processors.JSONRenderer(),
        ],
    )


def _with_ids(logger: object, name: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    from ...services.logged import add_ids  # not needed by a command that only looks

    return add_ids(logger, name, line)


def _without_traces(logger: object, name: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for id_ in ("trace_id", "span_id"):
        line.pop(id_, None)
    return line
