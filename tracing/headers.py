"""Trace headers as they travel: strict and cheap to read, written once, never an error.

A malformed value counts as absent (W3C Trace Context §3.2.2, §3.3.1). `saga-traceparent` has the form of a version 00
`traceparent` whose parent is the saga's root span: it carries the saga's sampling decision and epoch past services that
rewrite `traceparent`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext, TraceFlags, TraceState

from ..events.envelope import Headers
from .ids import ROOT, span_id, trace_id

MOST_BAGGAGE_BYTES = 8_192
"""W3C Baggage §3.3.2: what must be propagated at most; larger ones are dropped whole."""

REPLAYED_TRACE = "replay-traceparent"
"""Header: trace context of the run that gave an event up, where a person has sent it again; the new run links to it."""

SAMPLED = TraceFlags(TraceFlags.SAMPLED)
UNSAMPLED = TraceFlags(TraceFlags.DEFAULT)

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.{0,200})?", re.DOTALL)
_LENGTH = 55
_UNSAMPLED = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]")
_ODD = frozenset("13579bdf")
_ODD_BYTES = frozenset(b"13579bdf")

_MOST_TRACESTATE = 512
_MOST_MEMBERS = 32
_MEMBER = re.compile(
    r"([a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])"
)


class SagaTrace(NamedTuple):
    """What `saga-traceparent` says: the saga's trace, its root span, and whether the saga is sampled."""

    trace_id: int
    root_id: int
    sampled: bool


def parse_traceparent(text: str | None, tracestate: str | None = None) -> SpanContext | None:
    """Parse a `traceparent`; None where it is absent or malformed.

    A later version than 00 is read by the fields of 00, as the W3C recommendation asks.

    Args:
        text: the header's value.
        tracestate: of the same record; a malformed one is left out.
    """
    found = _fields(text)
    if found is None:
        return None
    trace, span, flags = found
    state = parse_tracestate(tracestate) if tracestate else None
    return SpanContext(trace, span, True, SAMPLED if flags & 1 else UNSAMPLED, state)


def parse_saga_traceparent(text: str | None) -> SagaTrace | None:
    """Parse a `saga-traceparent`; None where it is absent or malformed."""
    found = _fields(text)
    return SagaTrace(found[0], found[1], bool(found[2] & 1)) if found is not None else None


def format_traceparent(context: SpanContext) -> str:
    """Write a context as `traceparent`: version 00, and of the flags the sampled one alone."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{'01' if context.trace_flags & 1 else '00'}"


def saga_traceparent(namespace: str, saga_id: str, epoch: int, sampled: bool) -> str:
    """Write the `saga-traceparent` of a saga.

    Args:
        namespace: of the deployment.
        saga_id: the public name, with `~run` from run 2 on.
        epoch: of the trace, 0 unless it was reopened.
        sampled: the one decision for the whole saga.
    """
    return format_saga_trace(
        SagaTrace(trace_id(namespace, saga_id, epoch), span_id(namespace, saga_id, *ROOT), sampled)
    )


def format_saga_trace(saga: SagaTrace) -> str:
    """Write a `saga-traceparent` from ids that are known already."""
    return f"00-{saga.trace_id:032x}-{saga.root_id:016x}-{'01' if saga.sampled else '00'}"


def is_sampled(value: str | bytes | None) -> bool:
    """Read the sampled flag of a `traceparent` or `saga-traceparent` without parsing the rest.

    A first look only: it says True for some malformed values, so parse before acting on it.
    """
    if value is None or len(value) < _LENGTH:
        return False
    return value[54] in _ODD if isinstance(value, str) else value[54] in _ODD_BYTES


def is_unsampled(text: str | None) -> bool:
    """Tell whether a `traceparent` or `saga-traceparent` is well-formed, of version 00, and says not to sample."""
    return text is not None and _UNSAMPLED.fullmatch(text) is not None


class UnsampledSpan(NonRecordingSpan):
    """Stands for an unsampled context that came in a header, read only if somebody asks: most never do.

    Args:
        text: a header for which `is_unsampled` holds.
        state: the `tracestate` beside it.
    """

    def __init__(self, text: str, state: str | None = None) -> None:
        self._text = text
        self._state = state

    def get_span_context(self) -> SpanContext:
        """Give the context."""
        return parse_traceparent(self._text, self._state) or INVALID_SPAN_CONTEXT


def parse_tracestate(text: str | None) -> TraceState | None:
    """Parse a `tracestate` of at most 512 characters; None where it is absent, longer or malformed."""
    if not text or len(text) > _MOST_TRACESTATE:
        return None
    members: dict[str, str] = {}
    for part in text.split(","):
        member = part.strip(" \t")
        if not member:
            continue
        match = _MEMBER.fullmatch(member)
        # Checked here, because TraceState logs a line for each bad member: anyone who writes to a topic could flood it.
        if match is None or match[1] in members:
            return None
        members[match[1]] = match[2]
    if not members or len(members) > _MOST_MEMBERS:
        return None
    return TraceState(list(members.items()))


def format_tracestate(state: TraceState) -> str | None:
    """Write a `tracestate`; None where it is empty."""
    return ",".join(f"{key}={value}" for key, value in state.items()) or None


def usable_baggage(text: str | None) -> str | None:
    """Give a `baggage` value that may be read; None where it is absent or above 8 kB.

    It is never forwarded by itself: anyone who may write to a topic chooses it.
    """
    if not text or len(text) > MOST_BAGGAGE_BYTES or len(text.encode()) > MOST_BAGGAGE_BYTES:
        return None
    return text


def replace_header(headers: Headers, name: str, value: str | None) -> Headers:
    """Set a header so that it stands once: those of that name go, the new one comes last; None only removes."""
    kept = tuple(header for header in headers if header[0] != name)
    return kept if value is None else (*kept, (name, value.encode()))


def _fields(text: str | None) -> tuple[int, int, int] | None:
    if not text:
        return None
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    trace_number, span_number = int(trace, 16), int(span, 16)
    if not trace_number or not span_number:
        return None
    return trace_number, span_number, int(flags, 16)
