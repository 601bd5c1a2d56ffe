"""Spans as OTLP/JSON, the form in which Jaeger's query API answers and every OTLP/HTTP endpoint takes them.

Source: OpenTelemetry protocol 1.x, "JSON Protobuf Encoding": ids in hex, 64-bit integers as text, enums as numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .tree import AttributeValue, EventRow, LinkRow, SpanRow

_KINDS = ("INTERNAL", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_STATUS = ("UNSET", "OK", "ERROR")
_SCOPE = "choreo"
_REMARKS = "@jaeger@"
"""What Jaeger remarks by itself (a copy, a span without length) differs from one reading to the next."""


def read_otlp_json(request: Mapping[str, Any]) -> list[SpanRow]:
    """Read the spans of `{"resourceSpans": [...]}`, in its own order.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, IndexError: it is none.
    """
    rows = []
    for resource_spans in request.get("resourceSpans", ()):
        service = str(_attributes(resource_spans.get("resource", {})).get("service.name", ""))
        for scope_spans in resource_spans.get("scopeSpans", ()):
            # Where every span of a scope was a duplicate, Jaeger gives no list.
            rows += [_row(span, service) for span in scope_spans.get("spans", ())]
    return rows


def to_otlp_json(spans: Iterable[SpanRow]) -> dict[str, Any]:
    """Write spans as `{"resourceSpans": [...]}`, one resource for each service."""
    services: dict[str, list[SpanRow]] = {}
    for span in spans:
        services.setdefault(span.service, []).append(span)
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _pairs({"service.name": service})},
                "scopeSpans": [{"scope": {"name": _SCOPE}, "spans": [_span(row) for row in rows]}],
            }
            for service, rows in services.items()
        ]
    }


def _row(span: Mapping[str, Any], service: str) -> SpanRow:
    status = span.get("status", {})
    return SpanRow(
        str(span["traceId"]),
        str(span["spanId"]),
        span.get("parentSpanId") or None,
        str(span["name"]),
        _KINDS[span.get("kind", 0)],
        service,
        int(span["startTimeUnixNano"]) // 1_000,
        int(span["endTimeUnixNano"]) // 1_000,
        _STATUS[status.get("code", 0)],
        status.get("message", ""),
        _attributes(span),
        tuple(LinkRow(link["traceId"], link["spanId"], _attributes(link)) for link in span.get("links", ())),
        tuple(
            EventRow(event["name"], int(event["timeUnixNano"]) // 1_000, _attributes(event))
            for event in span.get("events", ())
        ),
    )


def _attributes(of: Mapping[str, Any]) -> dict[str, AttributeValue]:
    return {
        pair["key"]: _value(pair["value"]) for pair in of.get("attributes", ()) if not pair["key"].startswith(_REMARKS)
    }


def _value(value: Mapping[str, Any]) -> AttributeValue:
    ((kind, content),) = value.items()
    if kind == "arrayValue":
        return [str(_value(each)) for each in content.get("values", ())]
    if kind == "intValue":
        return int(content)
    return content if isinstance(content, (str, float, bool)) else str(content)


def _span(row: SpanRow) -> dict[str, Any]:
    span: dict[str, Any] = {"traceId": row.trace_id, "spanId": row.span_id}
    if row.parent_id is not None:
        span["parentSpanId"] = row.parent_id
    status: dict[str, Any] = {"code": _STATUS.index(row.status)} if row.status != "UNSET" else {}
    if row.description:
        status["message"] = row.description
    return {
        **span,
        "name": row.name,
        "kind": max(1, _KINDS.index(row.kind)),
        "startTimeUnixNano": str(row.start * 1_000),
        "endTimeUnixNano": str(row.end * 1_000),
        "attributes": _pairs(row.attributes),
        "events": [
            {"timeUnixNano": str(each.at * 1_000), "name": each.name, "attributes": _pairs(each.attributes)}
            for each in row.events
        ],
        "links": [
            {"traceId": each.trace_id, "spanId": each.span_id, "attributes": _pairs(each.attributes)}
            for each in row.links
        ],
        "status": status,
    }


def _pairs(attributes: Mapping[str, AttributeValue]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _spelled(value)} for name, value in attributes.items()]


def _spelled(value: object) -> dict[str, Any]:
    if isinstance(value, list):
        return {"arrayValue": {"values": [_spelled(each) for each in value]}}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}
