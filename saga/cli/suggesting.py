"""What the shell may complete: names of sagas and their types from the store, contexts from `choreo.toml`.

It runs at a press of the tab key, so it loads next to nothing, gives the store a moment only, and where anything is
wrong it suggests nothing.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from cyclopts.completion import CompletionContext

PATIENCE = 0.15
"""Seconds that the store has for its answer."""

_MOST = 50
_EVERY = 100
"""Steps of SQLite's machine between two looks at the clock."""

_LAST = "\U0010ffff"
_IDS = "SELECT id, phase FROM choreo_saga WHERE id >= :first AND id < :last ORDER BY started_at DESC LIMIT :most"
_KEYS = "SELECT DISTINCT key, '' FROM choreo_saga WHERE key >= :first AND key < :last ORDER BY key LIMIT :most"
_TYPES = (
    "SELECT DISTINCT type, '' FROM choreo_definition WHERE type >= :first AND type < :last ORDER BY type LIMIT :most"
)


def sagas(context: CompletionContext) -> list[tuple[str, str]]:
    """Suggest names of sagas, the newest first, each with its phase; keys where no name begins so."""
    return _ask(context, _IDS) or _ask(context, _KEYS)


def types(context: CompletionContext) -> list[tuple[str, str]]:
    """Suggest types of sagas."""
    return _ask(context, _TYPES)


def contexts(context: CompletionContext) -> list[str]:
    """Suggest the contexts of `choreo.toml`."""
    from ...events.contexts import read_contexts
    from ...events.errors import ConfigurationError

    try:
        return sorted(read_contexts().named)
    except ConfigurationError:
        return []


def _ask(context: CompletionContext, query: str) -> list[tuple[str, str]]:
    values = {"first": context.incomplete, "last": context.incomplete + _LAST, "most": _MOST}
    try:
        return answer(_given(context), query, values)
    except Exception:  # a shell that completes has no place for a complaint
        return []


def answer(given: Mapping[str, str], query: str, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Ask the store that is meant, for a moment.

    Args:
        given: options that stand on the line already: `store`, `home`, `context`.
        query, values: the question, of two columns.
    """
    url = store_of(given, os.environ)
    path = url.removeprefix("sqlite:")
    rows = _of_file(path, query, values) if path != url else asyncio.run(_of_server(url, query, values))
    return [(str(value), str(told)) for value, told in rows]


def store_of(given: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """Give the address of the store as the settings would, without loading them."""
    from ...events.contexts import read_contexts

    file = read_contexts()
    named = given.get("context") or ""
    own = file.of(named or environ.get("CHOREO_CONTEXT") or file.current)
    variables = {name: environ.get(f"CHOREO_{name.upper()}") for name in ("store", "home")}
    order = (given, own, variables, file.values) if named else (given, variables, own, file.values)
    store, home = (next((each[name] for each in order if each.get(name)), "") for name in ("store", "home"))
    return str(store or f"sqlite:{home or '.choreo'}/saga.db")


def _given(context: CompletionContext) -> dict[str, str]:
    found = ((name, context.get(f"--{name}")) for name in ("store", "home", "context"))
    return {name: value.raw for name, value in found if value is not None and value.raw}


def _of_file(path: str, query: str, values: Mapping[str, Any]) -> Sequence[Any]:
    end = time.monotonic() + PATIENCE
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=PATIENCE)) as connection:
        connection.set_progress_handler(lambda: int(time.monotonic() > end), _EVERY)
        return connection.execute(query, dict(values)).fetchall()


async def _of_server(url: str, query: str, values: Mapping[str, Any]) -> Sequence[Any]:
    from sqlalchemy import text

    from ...events.database import Database

    async with asyncio.timeout(PATIENCE):
        database = await Database.open(url)
        try:
            return await database.read(lambda connection: connection.execute(text(query), dict(values)).all())
        finally:
            await database.close()


SagaName = Annotated[str, Parameter(completer=sagas)]
SagaType = Annotated[str, Parameter(completer=types)]
"""Parameters that the shell completes from the store."""
