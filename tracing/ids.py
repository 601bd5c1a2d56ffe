"""Trace and span ids derived from a saga's name, so that any service can compute them alone.

The derivation is a public contract (`docs/tracing.md` states it byte by byte, tests freeze its vectors): BLAKE2b (RFC
7693) with the personalisation `saga-trace/v1` over length-prefixed parts. Changing it re-keys every trace, so a change
takes a new personalisation.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from urllib.parse import quote

_PERSON = b"saga-trace/v1"

ROOT = ("root",)
STARTED = ("started",)
ANCHOR = ("anchor",)
"""Paths of the spans that a saga has once; the anchor stands in the origin's trace."""

WAIT = ("wait",)
"""Begin of the path of a wait that is no step of the definition, e.g. `wait, lock`."""


def trace_id(namespace: str, saga_id: str, epoch: int = 0, view: str = "") -> int:
    """Derive the id of a saga's trace.

    Args:
        namespace: keeps two deployments apart in one Jaeger; may be empty.
        saga_id: the saga's public name, with `~run` from run 2 on.
        epoch: raised when a finished saga reopens (ruling R11), and every day; 0 adds nothing to the hash.
        view: of a saga that is emitted again, so that it cannot mix with what was emitted before; "" adds nothing.
    """
    if view:
        return _digest(16, "trace", namespace, saga_id, str(epoch), "view", view)
    if epoch:
        return _digest(16, "trace", namespace, saga_id, str(epoch))
    return _digest(16, "trace", namespace, saga_id)


def span_id(namespace: str, saga_id: str, *path: str) -> int:
    """Derive a span id of a saga; it is unique within the saga's trace, and the epoch does not change it.

    Args:
        namespace: as in `trace_id`.
        saga_id: as in `trace_id`.
        path: `ROOT`, `STARTED`, `ANCHOR`, or what `step_path` and `compensation_path` give.
    """
    return _digest(8, "span", namespace, saga_id, *path)


def step_path(step: str, occurrence: str = "") -> tuple[str, str, str]:
    """Give the path of a step's span; `occurrence` tells branches and repetitions apart, the default is empty."""
    return ("step", step, occurrence)


def compensation_path(step: str, occurrence: str = "") -> tuple[str, str, str]:
    """Give the path of the span of a step's compensation."""
    return ("comp", step, occurrence)


def saga_name(saga_type: str, key: str, run: int = 1) -> str:
    """Spell a saga's public name: `fulfilment/4711`, run 2: `fulfilment/4711~2`.

    Args:
        saga_type: the saga's type in kebab-case.
        key: the business key; UTF-8, percent-encoded outside `[A-Za-z0-9._-]`.
        run: counted from 1.
    """
    # quote() leaves "~" alone, which marks the run here.
    encoded = key if _PLAIN(key) else quote(key, safe="").replace("~", "%7E")
    return name_with_run(f"{saga_type}/{encoded}", run)


def name_with_run(saga_id: str, run: int | None) -> str:
    """Add the run to a name that carries none (the `saga-id` header never does); run 1 and None add nothing."""
    return f"{saga_id}~{run}" if run is not None and run > 1 else saga_id


_DIGESTS = {size: blake2b(digest_size=size, person=_PERSON) for size in (8, 16)}
_PLAIN = re.compile(r"[A-Za-z0-9._-]*").fullmatch


def _digest(size: int, *parts: str) -> int:
    digest = _DIGESTS[size].copy()  # to begin a new one takes longer than all the rest
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    # All-zero is the one invalid id (W3C Trace Context §3.2.2.3).
    return int.from_bytes(digest.digest(), "big") or 1
