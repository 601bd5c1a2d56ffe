"""Ids in structured logs: every line that comes from a handler's run says which event, saga and trace it belongs to.

Where logs are JSON, `LoggedCalls` stands around the calls of handlers, so that lines of any logger carry the ids, those
of the standard library and of libraries too. Logs never hold a payload by choreo's doing.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

from opentelemetry.trace import get_current_span

from ..events.envelope import Envelope
from ..events.event import Event
from ..tracing.headers import parse_saga_traceparent, parse_traceparent
from .context import Context, Transaction
from .measuring import Calls
from .middleware import Answer
from .service import Handler

_RUN: ContextVar[Context | None] = ContextVar("choreo_run", default=None)


def as_json() -> bool:
    """Whether logs are JSON: `CHOREO_LOG=json`."""
    return os.environ.get("CHOREO_LOG", "") == "json"


def ids_of(envelope: Envelope) -> dict[str, str]:
    """Name an event, its saga and its trace, for a line of the log."""
    ids = {"event_id": envelope.id}
    if envelope.saga_id is not None:
        ids["saga_id"] = envelope.saga_id
    saga = parse_saga_traceparent(envelope.saga_traceparent)
    if saga is not None:
        ids["trace_id"] = f"{saga.trace_id:032x}"
    elif (parent := parse_traceparent(envelope.traceparent)) is not None:
        ids["trace_id"] = f"{parent.trace_id:032x}"
    return ids


def add_ids(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add to a line what it does not say itself: whose run it comes from (a processor of structlog)."""
    run = _RUN.get()
    if run is not None:
        for name, value in {"service": run.service, "handler": run.handler, **ids_of(run.envelope)}.items():
            line.setdefault(name, value)
    span = get_current_span().get_span_context()
    if span.is_valid:
        line.setdefault("trace_id", f"{span.trace_id:032x}")
        if line["trace_id"] == f"{span.trace_id:032x}":
            line.setdefault("span_id", f"{span.span_id:016x}")
    return line


class LoggedCalls:
    """Says for each line of the log from which run of a handler it comes.

    Args:
        calls: calls handlers.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def call(self, handler: Handler, event: Event, context: Context, tx: Transaction | None) -> Answer:
        """See `Provided.call`."""
        token = _RUN.set(context)
        try:
            return await self._calls.call(handler, event, context, tx)
        finally:
            _RUN.reset(token)

    async def call_batch(self, handler: Handler, events: list[Event], context: Context, tx: Transaction | None) -> Any:
        """See `Provided.call_batch`; its lines name the first event of the batch."""
        token = _RUN.set(context)
        try:
            return await self._calls.call_batch(handler, events, context, tx)
        finally:
            _RUN.reset(token)
