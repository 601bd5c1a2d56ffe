"""An AsyncAPI 3.0 document of services and sagas: channels, operations, messages with their schemas, Kafka bindings.

Pure: from what was declared. Headers and the value's form are those of `docs/wire.md`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ..events.envelope import AVRO, JSON
from ..events.event import Event
from ..events.sealed import SEALED
from ..events.secret import secret_paths
from .service import Service

_AVRO_SCHEMA = "application/vnd.apache.avro;version=1.9.0"
_KAFKA = "0.5.0"
"""Version of the Kafka bindings that the document keeps to."""

_WRONG = re.compile(r"[^A-Za-z0-9._-]")
_REQUIRED = ("ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "content-type")
_HEADERS = {
    "ce_specversion": "1.0",
    "ce_id": "unique id; a copy of the event has the same one",
    "ce_type": "the event's public type",
    "ce_source": "who says it",
    "ce_time": "when it happened in the business, RFC 3339",
    "content-type": "how the value is encoded",
    "causation-id": "ce_id of the event that led to this one",
    "saga-id": "the saga that it belongs to, type/key",
    "saga-type": "its type",
    "saga-run": "which run of that name, from 1",
    "saga-step": "the step that it belongs to",
    "saga-occurrence": "which element of a step that runs once per element",
    "saga-attempt": "of a command: raised only after a known failure",
    "saga-version": "grows with each transition of the saga",
    "saga-depth": "of what begins or undoes a saga within another: how deep it is nested",
    "undoes": "of an undo command: ids of the events that may have triggered what is to be undone, joined by commas",
    "traceparent": "W3C Trace Context of the span that sent it",
    "tracestate": "W3C Trace Context",
    "baggage": "W3C Baggage",
    "saga-traceparent": "the saga's trace and the id of its root span",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What one handler or step receives or sends.

    Args:
        part: the service, or the saga's type.
        name: of the handler or step.
        action: as AsyncAPI calls it.
        events: the classes, of any topics.
        group: the consumer group that receives.
        summary: for people.
    """

    part: str
    name: str
    action: Literal["receive", "send"]
    events: tuple[type[Event], ...]
    group: str = ""
    summary: str = ""


def of_service(service: Service) -> list[Operation]:
    """Read a service's handlers."""
    found = []
    for handler in service.handlers:
        told = (inspect.getdoc(handler.function) or "").partition("\n")[0]
        if handler.undoes is not None:
            told = told or f"Undoes {handler.undoes.name}."
        found.append(Operation(service.name, handler.name, "receive", tuple(handler.events), service.name, told))
        found.append(Operation(service.name, handler.name, "send", tuple(handler.signature.produces), "", told))
    return found


def document(
    operations: Iterable[Operation],
    *,
    title: str,
    version: str,
    prefix: str = "",
    server: tuple[str, bool] | None = None,
) -> dict[str, Any]:
    """Write the document as plain JSON values.

    Args:
        operations: of services and sagas.
        title, version: of the application.
        prefix: before every topic and group on the broker.
        server: host with port, and whether it is reached by TLS; None leaves it open.
    """
    told = [each for each in operations if each.events]
    classes = {cls.spec().type: cls for each in told for cls in each.events}
    schemas: dict[str, Any] = {"EventHeaders": _headers()}
    messages = {_id(type_): _message(cls, schemas) for type_, cls in sorted(classes.items())}
    topics = sorted({cls.spec().topic for cls in classes.values()})
    found: dict[str, Any] = {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version},
        "defaultContentType": AVRO,
        "channels": {_id(topic): _channel(topic, classes.values(), prefix) for topic in topics},
        "operations": dict(pair for each in told for pair in _operations(each, prefix)),
        "components": {"messages": messages, "schemas": schemas},
    }
    if server is not None:
        host, tls = server
        kafka = {"host": host, "protocol": "kafka-secure" if tls else "kafka"}
        found["servers"] = {"broker": {**kafka, "bindings": {"kafka": {"bindingVersion": _KAFKA}}}}
    return found


def _channel(topic: str, classes: Iterable[type[Event]], prefix: str) -> dict[str, Any]:
    types = sorted(cls.spec().type for cls in classes if cls.spec().topic == topic)
    return {
        "address": f"{prefix}{topic}",
        "messages": {_id(type_): {"$ref": f"#/components/messages/{_id(type_)}"} for type_ in types},
        "bindings": {"kafka": {"topic": f"{prefix}{topic}", "bindingVersion": _KAFKA}},
    }


def _operations(each: Operation, prefix: str) -> Iterable[tuple[str, dict[str, Any]]]:
    topics = list(dict.fromkeys(cls.spec().topic for cls in each.events))
    for topic in topics:
        types = [cls.spec().type for cls in each.events if cls.spec().topic == topic]
        more = f".{_id(topic)}" if len(topics) > 1 else ""
        operation: dict[str, Any] = {
            "action": each.action,
            "channel": {"$ref": f"#/channels/{_id(topic)}"},
            "title": f"{each.part}.{each.name} {each.action}s {', '.join(types)}",
            "messages": [{"$ref": f"#/channels/{_id(topic)}/messages/{_id(type_)}"} for type_ in types],
            "tags": [{"name": each.part}],
        }
        if each.summary:
            operation["summary"] = each.summary
        kafka: dict[str, Any] = {"bindingVersion": _KAFKA}
        if each.group:
            kafka["groupId"] = {"type": "string", "enum": [f"{prefix}{each.group}"]}
        operation["bindings"] = {"kafka": kafka}
        yield f"{_id(each.part)}.{_id(each.name)}.{each.action}{more}", operation


def _message(cls: type[Event], schemas: dict[str, Any]) -> dict[str, Any]:
    spec = cls.spec()
    key: dict[str, Any] = {"type": "string", "description": f"the business key, {spec.key}, as UTF-8 text"}
    kafka: dict[str, Any] = {"key": key, "bindingVersion": _KAFKA}
    if spec.schema is not None:
        kafka["schemaIdLocation"] = "payload"
        kafka["schemaIdPayloadEncoding"] = "confluent"
        kafka["schemaLookupStrategy"] = "TopicRecordNameStrategy"
    found: dict[str, Any] = {
        "name": spec.type,
        "title": spec.name,
        "contentType": AVRO if spec.format == "avro" else JSON,
        "headers": {"$ref": "#/components/schemas/EventHeaders"},
        "payload": _payload(cls, schemas),
        "correlationId": {"description": "the saga", "location": "$message.header#/saga-id"},
        "bindings": {"kafka": kafka},
    }
    told = _doc(cls)
    if told:
        found["summary"] = told.partition("\n")[0]
        found["description"] = told
    if spec.secrets:
        found["x-secret"] = list(spec.secrets)
    if spec.encrypted:
        found["x-encrypted"] = "secrets" if spec.encrypted == "secrets" else "everything"
    return found


def _payload(cls: type[Event], schemas: dict[str, Any]) -> dict[str, Any]:
    spec = cls.spec()
    if spec.schema is not None:
        return {"schemaFormat": _AVRO_SCHEMA, "schema": spec.schema}
    if spec.encrypted is True:
        return _encrypted()
    schema = cls.model_json_schema(ref_template="#/components/schemas/{model}", by_alias=True)
    for name, nested in schema.pop("$defs", {}).items():
        schemas.setdefault(name, nested)
    if spec.encrypted == "secrets":
        for name in {path.partition(".")[0] for path in secret_paths(cls, aliases=True) if "." not in path}:
            schema["properties"][name] = _encrypted()
    return schema


def _encrypted() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "encrypted; see the wire form of choreo",
        "properties": {SEALED: {"type": "string", "contentEncoding": "base64"}},
        "required": [SEALED],
    }


def _headers() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "CloudEvents 1.0 in binary mode, and what places an event in its saga; all are text",
        "properties": {name: {"type": "string", "description": told} for name, told in _HEADERS.items()},
        "required": list(_REQUIRED),
    }


def _doc(cls: type[Event]) -> str:
    own = cls.__dict__.get("__doc__")
    return inspect.cleandoc(own) if isinstance(own, str) else ""


def _id(name: str) -> str:
    """Make a name that may stand in a reference."""
    return _WRONG.sub("_", name)
