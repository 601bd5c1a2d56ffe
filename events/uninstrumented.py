"""Kafka's client without the spans of the stock instrumentation, where that is switched on: ours say more.

`opentelemetry-instrumentation-aiokafka` wraps the methods of the client's classes for the whole process. What the
application does with clients of its own stays instrumented; ours are called as they were before.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, TypeVar

_STOCK = "opentelemetry.instrumentation.aiokafka"

M = TypeVar("M")


def plain(method: M) -> M:
    """Give a bound method of Kafka's client as the client has it.

    Args:
        method: looked up just now; the instrumentation may come and go.
    """
    stock: Any = sys.modules.get(_STOCK)
    if stock is None or not stock.AIOKafkaInstrumentor().is_instrumented_by_opentelemetry:
        return method
    bare: M = inspect.unwrap(method)  # type: ignore[arg-type]
    return bare
