"""How a request to the gateway is received: its body within limits, and which event each of its parts is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import blake2b

from starlette.requests import ClientDisconnect, Request

from .cloudevents import MOST_ATTRIBUTE, Said
from .envelope import Record
from .event import Event
from .ids import derived_id
from .problems import Fault, Problem

_BODY_PATIENCE = 30.0
"""Seconds that a body may take to come."""


async def read_body(request: Request, most: int) -> bytes:
    """Read a body of limited size, before anything parses it.

    Raises:
        Problem: it is too large, compressed, or does not come.
    """
    if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
        told = f"content-encoding {encoding[:40]!r} is not read"
        raise Problem(415, "unsupported-media-type", told, "send it as it is", [Fault("content-encoding", "not read")])
    too_large = Problem(
        413,
        "too-large",
        f"the body has more than {most} bytes",
        "send less, or several batches",
        [Fault("(body)", "too large")],
    )
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > most:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_PATIENCE):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise Problem(
            408, "body-late", f"the body did not come within {_BODY_PATIENCE:.0f}s", "send it again"
        ) from None
    except ClientDisconnect:
        raise Problem(400, "disconnected", "the caller has gone", "send it again") from None
    return b"".join(parts)


def idempotency_key(headers: Sequence[tuple[str, str]]) -> str | None:
    """Read what names the task; None where nothing does.

    Raises:
        Problem: it is empty, too long, or stands twice.
    """
    found = [value for name, value in headers if name == "idempotency-key"]
    if not found:
        return None
    key = found[0].strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]  # a structured field's string, as the IETF draft of the header writes it
    problem = "stands twice" if len(found) > 1 else "is empty" if not key else None
    if problem is None and len(key) > MOST_ATTRIBUTE:
        problem = f"has more than {MOST_ATTRIBUTE} characters"
    if problem is not None:
        told = f"Idempotency-Key {problem}"
        raise Problem(
            400, "idempotency-key", told, "send one key for what is one task", [Fault("idempotency-key", problem)]
        )
    return key


def event_id(said: Said, event: Event, key: str | None, place: int) -> str:
    """Give the event's id: derived from the idempotency key where there is one, else its own.

    Source, type and business key are in it: run ids of schedulers are unique for one task only.
    """
    if key is None:
        assert said.id is not None
        return said.id
    return derived_id("gateway", said.source, said.type, event.key_text(), key, str(place))


def check_distinct(said: Sequence[Said], ids: Sequence[str]) -> None:
    """Refuse a batch in which an id stands twice.

    Raises:
        Problem: naming them.
    """
    seen: set[str] = set()
    faults = []
    for each, id_ in zip(said, ids, strict=True):
        if id_ in seen:
            faults.append(Fault(f"{each.where}id", "stands twice in this batch"))
        seen.add(id_)
    if faults:
        raise reused(faults)


def digest(record: Record) -> bytes:
    """Tell contents apart."""
    content = blake2b(digest_size=16)
    for part in (record.topic.encode(), record.key or b"", record.value or b""):
        content.update(len(part).to_bytes(4, "big") + part)
    return content.digest()


def reused(faults: Sequence[Fault]) -> Problem:
    """Refuse an id that stands for something else: whoever reads the event would drop it as a copy."""
    detail = f"{faults[0].field} {faults[0].problem}; nothing was published"
    remedy = "give each event an id of its own; a retry sends the same data"
    return Problem(409, "id-reused", detail, remedy, faults[:100])


def invalid(faults: Sequence[Fault], remedy: str) -> Problem:
    """Refuse events that do not fit."""
    more = f" (and {len(faults) - 1} more, see errors)" if len(faults) > 1 else ""
    detail = f"{faults[0].field}: {faults[0].problem}{more}; nothing was published"
    return Problem(422, "invalid-event", detail, remedy, faults[:100])
