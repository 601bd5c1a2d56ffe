"""Logs go to standard error: lines for people, JSON with `CHOREO_LOG=json`; warnings only unless `-v`."""

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
    renderer: structlog.typing.Processor
    if as_json():
        renderer = structlog.processors.JSONRenderer()
    else:
        from .shell import wants_color

        colors = wants_color(shell.color, os.environ, sys.stderr.isatty())
        renderer = structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.getLogger("aiosqlite").setLevel(logging.INFO)  # below it quotes statements with their values, secrets too
    # A broker that is away gives one line of ours; the client's own twenty come with -v.
    logging.basicConfig(level=logging.CRITICAL if shell.verbose == 0 else level, stream=sys.stderr)


def as_json() -> bool:
    """Whether logs are JSON."""
    return os.environ.get("CHOREO_LOG", "") == "json"
