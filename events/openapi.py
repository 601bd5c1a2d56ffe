"""The gateway's OpenAPI 3.1 document, made of the event classes that it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from .cloudevents import BATCH, MOST_ATTRIBUTE, MOST_IN_BATCH, STRUCTURED
from .event import Event
from .problems import PROBLEM_JSON, SCHEMA

_SCHEMAS = "#/components/schemas/"
_PLAIN = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$"
_TEXT = {"type": "string", "minLength": 1, "maxLength": MOST_ATTRIBUTE, "pattern": _PLAIN}


def document(
    events: Iterable[type[Event]], doors: Sequence[Mapping[str, Any]], root: str, bearer: bool
) -> dict[str, Any]:
    """Describe a gateway.

    Args:
        events: the classes that it takes.
        doors: paths of what else it answers.
        root: path under which it is mounted.
        bearer: whether a token must come.
    """
    schemas: dict[str, Any] = {"Problem": SCHEMA, "Published": _PUBLISHED}
    said = []
    for cls in events:
        type_ = cls.spec().type
        own = cls.model_json_schema(by_alias=True, ref_template=f"{_SCHEMAS}{{model}}", mode="validation")
        if cls.spec().schema is not None:
            _bound_integers(own)
        schemas.update(own.pop("$defs", {}))
        schemas[type_] = _with_key(cls, own)
        schemas[f"{type_}.cloudevent"] = _cloudevent(type_)
        said.append(type_)
    paths: dict[str, Any] = {
        "/events": _publishing(sorted(said)),
        "/health": deepcopy(_HEALTH),
        "/openapi.json": deepcopy(_DOCUMENT),
    }
    for more in doors:
        paths.update(more)
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "choreo gateway",
            "version": "1",
            "description": "Publishes events, and tells how sagas stand. A request that got no answer is sent again.",
        },
        "servers": [{"url": root or "/"}],
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if bearer:
        made["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"bearer": []}]
        paths["/health"]["get"]["security"] = []
        for path in paths.values():
            for operation in path.values():
                if operation.get("security") != []:
                    operation["responses"] = {
                        **operation["responses"],
                        "401": problem("No token, or none that is known."),
                    }
    return made


def problem(description: str, headers: Sequence[str] = ()) -> dict[str, Any]:
    """Describe an answer that is a problem.

    Args:
        description: when it is given.
        headers: that it has.
    """
    told: dict[str, Any] = {
        "description": description,
        "content": {PROBLEM_JSON: {"schema": {"$ref": f"{_SCHEMAS}Problem"}}},
    }
    if headers:
        told["headers"] = {name: {"schema": {"type": "string"}} for name in headers}
    return told


def _with_key(cls: type[Event], schema: dict[str, Any]) -> dict[str, Any]:
    """Say that a key is not empty, which a class need not say."""
    name = cls.spec().key
    key = schema["properties"].get(cls.model_fields[name].alias or name, {})
    if key.get("type") == "string" and "enum" not in key and "format" not in key:
        key.setdefault("minLength", 1)
        key.setdefault("pattern", "^[^\\u0000]+$")
    return schema


def _bound_integers(schema: Any) -> None:
    """Say how large an Avro `long` is, everywhere in a schema."""
    if isinstance(schema, list):
        for each in schema:
            _bound_integers(each)
    elif isinstance(schema, dict):
        if schema.get("type") == "integer":
            schema.setdefault("minimum", -(2**63))
            schema.setdefault("maximum", 2**63 - 1)
        for each in schema.values():
            _bound_integers(each)


def _cloudevent(type_: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "specversion": {"const": "1.0"},
            "id": _TEXT,
            "type": {"const": type_},
            "source": _TEXT,
            "time": {"type": "string", "format": "date-time"},
            "datacontenttype": {"const": "application/json"},
            "data": {"$ref": f"{_SCHEMAS}{type_}"},
        },
        "required": ["specversion", "id", "type", "source", "data"],
        "propertyNames": {"pattern": "^[a-z0-9]{1,40}$"},
        "additionalProperties": {"anyOf": [_TEXT, {"type": ["integer", "boolean"]}]},
        "maxProperties": 20,
    }


def _header(name: str, schema: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": dict(schema), "description": description}


def _publishing(types: Sequence[str]) -> dict[str, Any]:
    structured = {"oneOf": [{"$ref": f"{_SCHEMAS}{type_}.cloudevent"} for type_ in types]}
    plain = {"anyOf": [{"$ref": f"{_SCHEMAS}{type_}"} for type_ in types]}
    return {
        "post": {
            "operationId": "publish",
            "summary": "Publish events, as CloudEvents in binary, structured or batch mode.",
            "description": (
                "202 says that the broker has them. A request that comes again, with the same id or the same "
                "Idempotency-Key, publishes nothing that its readers would take for new."
            ),
            "parameters": [
                _header(
                    "Idempotency-Key",
                    _TEXT,
                    "Names the task, e.g. a scheduler's run id: the event's id is derived from it, with its source, "
                    "type and business key.",
                ),
                _header("ce-specversion", {"const": "1.0"}, "Binary mode."),
                _header("ce-id", _TEXT, "Binary mode; may be left out where Idempotency-Key stands."),
                _header("ce-source", _TEXT, "Binary mode."),
                _header("ce-type", {"enum": list(types)}, "Binary mode."),
                _header("ce-time", {"type": "string", "format": "date-time"}, "Binary mode: when it happened."),
            ],
            "requestBody": {
                "required": True,
                "content": {
                    STRUCTURED: {"schema": structured},
                    BATCH: {"schema": {"type": "array", "maxItems": MOST_IN_BATCH, "items": structured}},
                    "application/json": {"schema": plain},
                },
            },
            "responses": {
                "202": {
                    "description": "The broker has acknowledged them; a batch is answered by a list.",
                    "headers": {"Location": {"schema": {"type": "string"}, "required": False}},
                    "content": {
                        "application/json": {
                            "schema": {
                                "anyOf": [
                                    {"$ref": f"{_SCHEMAS}Published"},
                                    {"type": "array", "items": {"$ref": f"{_SCHEMAS}Published"}},
                                ]
                            }
                        }
                    },
                },
                "400": problem("No CloudEvent, or not JSON."),
                "408": problem("The body did not come in time."),
                "413": problem("Too large."),
                "415": problem("A content type, charset or encoding that is not read."),
                "409": problem("An id that was used for another event."),
                "422": problem("An event that does not fit its class, or of a type that is not taken."),
                "500": problem("A topic is missing, or a schema refused."),
                "503": problem("The broker or the registry does not answer: send it again.", ["Retry-After"]),
            },
        }
    }


_PUBLISHED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "schema": {"const": "saga.published/v1"},
        "id": {"type": "string"},
        "type": {"type": "string"},
        "topic": {"type": "string"},
        "key": {"type": "string"},
        "sagas": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"type": {"type": "string"}, "key": {"type": "string"}, "url": {"type": "string"}},
                "required": ["type", "key", "url"],
            },
        },
    },
    "required": ["schema", "id", "type", "topic", "key", "sagas"],
}

_HEALTH: dict[str, Any] = {
    "get": {
        "operationId": "health",
        "summary": "Whether the gateway lives.",
        "responses": {
            "200": {
                "description": "It does.",
                "content": {
                    "application/json": {"schema": {"type": "object", "properties": {"status": {"const": "ok"}}}}
                },
            }
        },
    }
}

_DOCUMENT: dict[str, Any] = {
    "get": {
        "operationId": "document",
        "summary": "This document.",
        "responses": {"200": {"description": "It.", "content": {"application/json": {"schema": {"type": "object"}}}}},
    }
}
