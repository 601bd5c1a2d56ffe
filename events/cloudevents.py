"""CloudEvents 1.0 over HTTP, as they are received: binary, structured and batched (HTTP protocol binding §3).

Pure: headers and bytes in, what somebody says out. The payload stays JSON; the event's class reads it.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

from pydantic_core import from_json, to_json

from .clock import from_rfc3339
from .envelope import Headers
from .problems import Fault, Problem

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"

MOST_IN_BATCH = 1_000
MOST_ATTRIBUTE = 500
"""Characters of an id, a source or an idempotency key: what the coordinators' stores take of an event's id."""

_MOST_EXTENSIONS = 20
_MOST_EXTENSION_BYTES = 2_048
_REQUIRED = ("specversion", "type", "source")
_READ = frozenset((*_REQUIRED, "id", "time", "datacontenttype", "data", "data_base64", "traceparent", "tracestate"))
_NAME = re.compile(r"[a-z0-9]{1,40}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Said(NamedTuple):
    """One event as somebody says it.

    Args:
        where: before each name of a field, e.g. `[3].` in a batch.
        id: None where an idempotency key stands for it.
        type, source: as they are said.
        time: microseconds; None where none is said.
        data: JSON.
        traceparent, tracestate: the trace that it belongs to, if that is well-formed.
        extra: what else is said of it, as Kafka headers.
    """

    where: str
    id: str | None
    type: str
    source: str
    time: int | None
    data: bytes
    traceparent: str | None
    tracestate: str | None
    extra: Headers


def read_events(headers: Sequence[tuple[str, str]], body: bytes, *, keyed: bool) -> list[Said]:
    """Read what a request says; all of it is well-formed, or nothing is taken.

    Args:
        headers: names in lower case, with their values.
        body: of the request.
        keyed: an idempotency key stands for ids that are missing.

    Raises:
        Problem: it is no CloudEvent.
    """
    content_type = next((value for name, value in headers if name == "content-type"), "")
    kind, _, parameters = content_type.partition(";")
    kind = kind.strip().lower()
    charset = re.search(r"charset\s*=\s*\"?([^\";\s]+)", parameters, re.IGNORECASE)
    if charset is not None and charset[1].lower() not in ("utf-8", "utf8"):
        raise _unsupported("content-type", "its charset is not UTF-8", "send UTF-8")
    if kind == BATCH:
        return _read_batch(body, headers, keyed)
    if kind == STRUCTURED:
        return [_read_structured(_json(body), "", headers, keyed)]
    if kind.startswith("application/cloudevents"):
        raise _unsupported("content-type", f"{kind[:60]!r} is not read here", f"send {STRUCTURED} or {BATCH}")
    if not any(name.startswith("ce-") for name, _ in headers):
        raise Problem(
            400,
            "no-cloudevent",
            "this is no CloudEvent: it has neither ce-* headers nor a CloudEvents content type",
            f"set the headers ce-specversion, ce-id, ce-source and ce-type, or send content-type {STRUCTURED}",
            [Fault("ce-specversion", "missing")],
        )
    if not _is_json(kind):
        raise _unsupported("content-type", "the data of an event is JSON here", "send content-type application/json")
    return [_read_binary(headers, body, keyed)]


def _read_binary(headers: Sequence[tuple[str, str]], body: bytes, keyed: bool) -> Said:
    attributes: dict[str, Any] = {}
    for name, value in headers:
        if not name.startswith("ce-"):
            continue
        if name[3:] in attributes:
            raise _malformed([Fault(name[:60], "stands twice")])
        try:
            attributes[name[3:]] = unquote(value, errors="strict")
        except UnicodeDecodeError:
            raise _malformed([Fault(name[:60], "is not percent-encoded UTF-8")]) from None
    for name in ("data", "data_base64", "datacontenttype"):
        attributes.pop(name, None)  # the body and content-type say it
    return _said(attributes, body, "", "ce-", headers, keyed)


def _read_batch(body: bytes, headers: Sequence[tuple[str, str]], keyed: bool) -> list[Said]:
    found = _json(body)
    if not isinstance(found, list):
        raise _malformed([Fault("(body)", "a batch is a JSON array of CloudEvents")])
    if len(found) > MOST_IN_BATCH:
        raise Problem(
            413, "too-large", f"{len(found)} events, at most {MOST_IN_BATCH} are taken at once", "send several batches"
        )
    said: list[Said] = []
    faults: list[Fault] = []
    for place, each in enumerate(found):
        try:
            said.append(_read_structured(each, f"[{place}].", headers, keyed))
        except Problem as problem:
            faults.extend(problem.faults)
    if faults:
        raise _malformed(faults)
    return said


def _read_structured(found: Any, where: str, headers: Sequence[tuple[str, str]], keyed: bool) -> Said:
    if not isinstance(found, dict):
        raise _malformed([Fault(where.rstrip(".") or "(body)", "a CloudEvent is a JSON object")])
    content_type = found.get("datacontenttype", "application/json")
    if not isinstance(content_type, str) or not _is_json(content_type.partition(";")[0].strip().lower()):
        raise _malformed([Fault(f"{where}datacontenttype", "the data of an event is JSON here")])
    if "data_base64" in found:
        if "data" in found:
            raise _malformed([Fault(f"{where}data_base64", "stands beside data; send one of them")])
        try:
            data = b64decode(found["data_base64"], validate=True)
        except (Base64Error, TypeError, ValueError):
            raise _malformed([Fault(f"{where}data_base64", "is not base64")]) from None
    elif "data" in found:
        data = to_json(found["data"], inf_nan_mode="constants")
    else:
        raise _malformed([Fault(f"{where}data", "missing")])
    return _said(found, data, where, where, headers, keyed)


def _said(
    attributes: Mapping[str, Any],
    data: bytes,
    where: str,
    prefix: str,
    headers: Sequence[tuple[str, str]],
    keyed: bool,
) -> Said:
    faults = []
    for name in (*_REQUIRED, "id"):
        value = attributes.get(name)
        if value is None or value == "":
            if name == "id" and keyed:
                continue
            hint = " (or set the header Idempotency-Key)" if name == "id" else ""
            faults.append(Fault(f"{prefix}{name}", f"missing{hint}"))
        elif problem := _wrong_text(value):
            faults.append(Fault(f"{prefix}{name}", problem))
        elif name == "specversion" and value != "1.0":
            faults.append(Fault(f"{prefix}{name}", "only 1.0 is read"))
    time = None
    if (text := attributes.get("time")) is not None:
        try:
            time = from_rfc3339(text)
        except (ValueError, TypeError, AttributeError, OverflowError):
            faults.append(Fault(f"{prefix}time", "is no RFC 3339 time with a zone, e.g. 2026-11-21T09:02:11Z"))
    extra = _extensions(attributes, prefix, faults)
    if faults:
        raise _malformed(faults)
    traceparent, tracestate = _trace(attributes, headers)
    id_ = attributes.get("id") or None
    return Said(where, id_, attributes["type"], attributes["source"], time, data, traceparent, tracestate, extra)


def _extensions(attributes: Mapping[str, Any], prefix: str, faults: list[Fault]) -> Headers:
    """Pass on what else is said, under the names of the Kafka binding."""
    extra = []
    for name, value in attributes.items():
        if name in _READ:
            continue
        if not _NAME.fullmatch(name):
            faults.append(Fault(f"{prefix}{name[:60]}", "attributes have names of lower-case letters and digits"))
            continue
        if value is None:
            continue
        text = str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int) else value
        if problem := _wrong_text(text):
            faults.append(Fault(f"{prefix}{name}", problem))
            continue
        extra.append((f"ce_{name}", text.encode()))
    if len(extra) > _MOST_EXTENSIONS or sum(len(name) + len(value) for name, value in extra) > _MOST_EXTENSION_BYTES:
        told = f"at most {_MOST_EXTENSIONS} extension attributes of {_MOST_EXTENSION_BYTES} bytes together"
        faults.append(Fault(f"{prefix}{extra[-1][0][3:]}", told))
    return tuple(extra)


def _trace(attributes: Mapping[str, Any], headers: Sequence[tuple[str, str]]) -> tuple[str | None, str | None]:
    """Take the event's own trace context, else the request's; a malformed one is ignored (W3C Trace Context §3.2.2)."""
    request = dict(headers)
    for source in (attributes, request):
        parent, state = source.get("traceparent"), source.get("tracestate")
        if isinstance(parent, str) and _TRACEPARENT.fullmatch(parent):
            fits = isinstance(state, str) and len(state) <= 512 and state.isascii() and state.isprintable()
            return parent, state if fits else None
    return None, None


def _wrong_text(value: Any) -> str | None:
    if not isinstance(value, str):
        return "is not text"
    if len(value) > MOST_ATTRIBUTE:
        return f"has more than {MOST_ATTRIBUTE} characters"
    return "holds a control character" if _CONTROL.search(value) else None


def _is_json(kind: str) -> bool:
    return kind in ("application/json", "text/json") or (kind.endswith("+json") and "/" in kind)


def _json(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError:
        raise Problem(400, "no-json", "the body is not JSON", "send JSON", [Fault("(body)", "is not JSON")]) from None


def _malformed(faults: Sequence[Fault]) -> Problem:
    first = faults[0]
    more = f" (and {len(faults) - 1} more, see errors)" if len(faults) > 1 else ""
    return Problem(
        400,
        "malformed-cloudevent",
        f"{first.field}: {first.problem}{more}",
        "mend what errors names, and send all of it again: nothing was published",
        faults[:100],
    )


def _unsupported(field: str, problem: str, remedy: str) -> Problem:
    return Problem(415, "unsupported-media-type", f"{field}: {problem}", remedy, [Fault(field, problem)])
