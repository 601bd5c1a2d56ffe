"""A pipeline of tracing that keeps what it is given, for tests that look at it at once."""

from __future__ import annotations

from opentelemetry.sdk.trace import ReadableSpan

from choreo.tracing.spans import Losses


class Kept:
    """A pipeline that keeps what it is given."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)

    def accepted(self) -> int:
        return len(self.spans)

    left = accepted

    def flush(self, timeout: float) -> bool:
        return True

    close = flush

    def losses(self) -> Losses:
        return Losses("kept", len(self.spans), 0, 0)
