"""Events to bytes and back: Avro in the Confluent wire format, plain JSON, and CloudEvents in structured JSON.

Avro values are read with the *writer's* schema and then validated by the class: pydantic drops fields that it does not
know, fills missing ones with their defaults and widens numbers, so an older class reads newer events and the other way
round. No error text holds a payload's value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from io import BytesIO
from typing import Any, TypeVar

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from pydantic import BaseModel, ValidationError, create_model
from pydantic_core import from_json, to_json

from .avro import Schema, shape_of
from .clock import from_rfc3339
from .envelope import AVRO, CLOUDEVENTS_JSON, JSON, Envelope, Headers, Heading, Record, write_headers
from .errors import DecodeError, EncodeError, LimitExceeded
from .event import Event, EventSpec
from .keys import Keys, open_keys
from .layout import Layout, Unwritable, bind
from .registry import SchemaRegistry
from .resolution import renames, require_units
from .scan import MOST_VALUE_BYTES
from .sealed import find_places, mask_json, open_json, open_tree, seal_json
from .secret import Showing
from .settings import Settings
from .writer import HEAD, WriterSchema

E = TypeVar("E", bound=Event)

SECRET_FIELDS = "secret-fields"  # noqa: S105 - a header's name
"""Header of JSON events: where they hold secrets, joined by commas."""

_MAGIC = b"\x00"
# CloudEvents extensions "partitioning" and "distributed tracing".
_EXTENSIONS = ("partitionkey", "traceparent", "tracestate")
# As other clients call it: Microsoft's and Confluent's conventions, and IANA's registration.
_AVRO_NAMES = ("avro/binary", "application/vnd.apache.avro+binary", "application/vnd.apache.avro")


class UnknownSchema(DecodeError):
    """The writer's schema is not known here so far: `await codec.learn(error.schema_id)` and decode again."""

    def __init__(self, schema_id: int) -> None:
        super().__init__(f"the writer's schema {schema_id} is not known here yet", schema_id=schema_id)
        self.schema_id = schema_id


class Codec:
    """Encodes and decodes events, without waiting: `prepare` and `learn` did the asking before.

    Args:
        registry: where schemas are registered and found.
        keys: of what is encrypted; none by default.
    """

    def __init__(self, registry: SchemaRegistry, keys: Keys | None = None) -> None:
        self._registry = registry
        self.keys = keys or Keys({})
        self._writers: dict[type[Event], Callable[[Event, str], bytes]] = {}
        self._known: dict[int, WriterSchema] = {}
        self._readers: dict[tuple[type[Event], bytes], Callable[[bytes, str, str], Any]] = {}  # by the value's head too
        self._layouts: dict[type[Event], Layout] = {}
        self._structured: dict[type[Event], type[BaseModel]] = {}

    async def prepare(self, classes: Iterable[type[Event]]) -> None:
        """Register the schemas of classes that will be *encoded*; once, at start. Reading needs no preparation.

        Raises:
            SchemaRefused: a schema would break readers; the text names field and rule.
            RegistryUnreachable: ask again later.
            ConfigurationError: a class is encrypted, and there is no key.
        """
        for cls in classes:
            if cls in self._writers:
                continue
            spec = cls.spec()
            if spec.encrypted:
                self.keys.check(spec.type)
            if spec.schema is None or spec.content is None:
                self._writers[cls] = _json_writer(spec, self.keys)
                continue
            schema_id = await self._registry.register(subject_of(spec.topic, spec.type), spec.schema)
            self._learned(schema_id, spec.schema)
            self._writers[cls] = _avro_writer(spec, self._layout(cls, spec.content), schema_id, self.keys)

    def encode(self, event: Event, id_: str = "") -> bytes:
        """Encode an event of a prepared class.

        Args:
            event: which.
            id_: its `ce_id`; what is encrypted is bound to it.

        Raises:
            EncodeError: a value does not fit its schema, or the class was not prepared.
        """
        try:
            write = self._writers[type(event)]
        except KeyError:
            raise EncodeError(f"{type(event).__name__} was not prepared; await codec.prepare([...]) first") from None
        return write(event, id_)

    def decode(self, cls: type[E], value: bytes, content_type: str, key: str = "", id_: str = "") -> E:
        """Decode a value to an event of `cls`.

        Args:
            cls: what it should be.
            value: the record's value.
            content_type: the header; an empty one is guessed from the first byte.
            key: the business key; a foreign event (`Foreign`) whose value lacks its key field gets it.
            id_: the event's `ce_id`, to which what is encrypted is bound.

        Raises:
            UnknownSchema: `learn` the writer's schema, then call again.
            LimitExceeded: it is too large, or holds too much.
            DecodeError: the bytes are not what they say, do not make an event of `cls`, or cannot be decrypted here.
        """
        if len(value) > MOST_VALUE_BYTES:
            raise LimitExceeded(f"a value of {len(value)} bytes, at most {MOST_VALUE_BYTES} are read")
        kind = AVRO if content_type == AVRO else _kind(content_type, value)
        if kind != AVRO:
            return self._decode_json(cls, value, kind, key, id_)
        known = cls, value[:HEAD]
        read = self._readers.get(known)
        if read is None:
            read = self._readers[known] = self._reader(cls, self._schema_of(value))
        event: E = read(value, key, id_)
        return event

    def decode_any(
        self, value: bytes, content_type: str, type_: str = "", id_: str = "", *, mask: bool = False
    ) -> dict[str, object]:
        """Decode a value without a class, to plain Python values.

        Args:
            value, content_type: of the record.
            type_, id_: of the event, to which what is encrypted is bound.
            mask: show what is encrypted, and what the writer's schema calls secret, as `**********`; needs no keys.

        Raises:
            UnknownSchema, LimitExceeded, DecodeError: as `decode`.
        """
        if len(value) > MOST_VALUE_BYTES:
            raise LimitExceeded(f"a value of {len(value)} bytes, at most {MOST_VALUE_BYTES} are read")
        kind = _kind(content_type, value)
        if kind == AVRO:
            found = self._schema_of(value).read(value, None if mask else self.keys, type_, id_)
        else:
            found = _from_json(value)
            if kind == CLOUDEVENTS_JSON and isinstance(found, dict):
                found = found.get("data")
            found = mask_json(found) if mask else open_tree(found, self.keys, type_, id_)
            if mask and not isinstance(found, dict):
                found = {"sealed": found}
        if not isinstance(found, dict):
            raise DecodeError("the value is not a record")
        return found

    async def learn(self, schema_id: int) -> None:
        """Fetch a writer's schema, once however many ask for it.

        Raises:
            RegistryUnreachable: wait and ask again; the event is not to blame.
            DecodeError: there is no such schema, or it is unusable.
        """
        if schema_id not in self._known:
            self._learned(schema_id, await self._registry.fetch(schema_id))

    def _learned(self, schema_id: int, schema: Schema) -> None:
        if schema_id not in self._known:
            self._known[schema_id] = WriterSchema(schema)

    def _schema_of(self, value: bytes) -> WriterSchema:
        if value[:1] != _MAGIC or len(value) < HEAD:
            raise _no_magic()
        schema_id = int.from_bytes(value[1:HEAD], "big")
        try:
            return self._known[schema_id]
        except KeyError:
            raise UnknownSchema(schema_id) from None

    def _layout(self, cls: type[Event], schema: Schema) -> Layout:
        if cls not in self._layouts:
            self._layouts[cls] = bind(shape_of(cls), schema)
        return self._layouts[cls]

    def _reader(self, cls: type[Event], writer: WriterSchema) -> Callable[[bytes, str, str], Any]:
        spec = cls.spec()
        lent = None if spec.foreign is None else spec.key
        layout = None if spec.content is None else self._layout(cls, spec.content)
        convert = None if layout is None else layout.read
        options: dict[str, Any] = {"by_alias": False, "by_name": True} if layout is not None and layout.aliased else {}
        scan, parsed, tagged, places, plain = writer.scan, writer.parsed, writer.tagged, writer.places, writer.plain
        own: Any = None
        if spec.content is not None:
            require_units(shape_of(cls), parsed)
            # What is closed lies there as bytes, whatever its name: no other schema would find it.
            own = parse_schema(spec.content) if places is None and renames(spec.content) else None
        validate, name, type_, keys = cls.model_validate, cls.__name__, spec.type, self.keys

        def resolved(value: bytes) -> Any:
            scan(value, HEAD)
            stream = BytesIO(value)
            stream.seek(HEAD)
            return schemaless_reader(stream, parsed, own, tagged, tagged)

        take = resolved if tagged or own is not None else plain

        def read(value: bytes, key: str, id_: str) -> Any:
            try:
                record: Any = take(value)
                if places is not None:
                    record = places.open(record, keys, type_, id_, tagged=tagged)
                if tagged:
                    record = _untag(record, layout)
                if convert is not None:
                    record = convert(record)
                if lent is not None and key:
                    record.setdefault(lent, key)
                return validate(record, **options)
            except ValidationError as error:
                raise _invalid(cls, error) from None
            except (DecodeError, LimitExceeded):
                raise
            except Exception:
                raise DecodeError(f"{name}: the value is not what its schema says, or the class fails on it") from None

        return read

    def record_name(self, value: bytes) -> str:
        """Give the full name of the Avro record that a value is, as its writer calls it; empty where it has none.

        Raises:
            UnknownSchema: `learn` the writer's schema, then call again.
            DecodeError: it is not in the Confluent wire format.
        """
        parsed = self._schema_of(value).parsed
        return str(parsed.get("name", "")) if isinstance(parsed, dict) else ""

    def _decode_json(self, cls: type[E], value: bytes, kind: str, key: str, id_: str) -> E:
        value = open_json(value, self.keys, cls.spec().type, id_, within=() if kind == JSON else ("data",))
        try:
            if key and cls.spec().foreign is not None:
                value = _lend(cls, value, kind, key)
            if kind == JSON:
                return cls.model_validate_json(value, by_alias=True, by_name=True)
            model = self._structured.get(cls)
            if model is None:
                model = self._structured[cls] = create_model("Structured", data=(cls, ...))
            found: E = model.model_validate_json(value, by_alias=True, by_name=True).data  # type: ignore[attr-defined]
            return found
        except ValidationError as error:
            raise _invalid(cls, error) from None


def _lend(cls: type[Event], value: bytes, kind: str, key: str) -> bytes:
    """Give a JSON value the key field of its class, where the business key stands elsewhere."""
    found = _from_json(value)
    data = found.get("data") if kind == CLOUDEVENTS_JSON and isinstance(found, dict) else found
    if not isinstance(data, dict) or any(name in data for name in names_of_key(cls)):
        return value
    return to_json(
        {"data": {**data, cls.spec().key: key}} if kind == CLOUDEVENTS_JSON else {**data, cls.spec().key: key}
    )


def names_of_key(cls: type[Event]) -> tuple[str, ...]:
    """Give the names under which the key field of a class may stand in JSON: its own, and its alias."""
    field = cls.spec().key
    info = cls.model_fields[field]
    aliases = (alias for alias in (info.validation_alias, info.alias) if isinstance(alias, str))
    return (field, *dict.fromkeys(aliases))


def write_json(event: Event) -> bytes:
    """Write an event as JSON, whatever its class's format.

    Raises:
        EncodeError: it cannot be written so.
    """
    return _json_writer(event.spec(), Keys({}))(event, "")


def open_codec(registry: SchemaRegistry, settings: Settings) -> Codec:
    """Make a codec with the keys of the settings.

    Raises:
        ConfigurationError: the keys are malformed, or a library is missing.
    """
    return Codec(registry, open_keys(settings))


def subject_of(topic: str, type_name: str) -> str:
    """Name the registry's subject: `<topic>-<type>`, since a topic carries several types (TopicRecordNameStrategy)."""
    return f"{topic}-{type_name}"


def to_record(event: Event, envelope: Envelope, codec: Codec, *, topic: str | None = None) -> Record:
    """Make the record of an event; `envelope.content_type` is set to how it is encoded.

    Args:
        event: of a prepared class.
        envelope: its headers; the record's key is the event's.
        codec: prepared for the class.
        topic: instead of the class's own.

    Raises:
        MissingKey, EncodeError
    """
    spec = event.spec()
    key = event.key_text()
    envelope.content_type = _content_type(spec)
    envelope.extra += _secret_fields(spec)
    return Record(topic or spec.topic, key.encode(), codec.encode(event, envelope.id), write_headers(envelope))


def heading_of(spec: EventSpec, source: str) -> Heading:
    """Make the heading of a type's events, with which they carry what `to_record` would give them."""
    return Heading(spec.type, source, _content_type(spec), _secret_fields(spec))


def _content_type(spec: EventSpec) -> str:
    return AVRO if spec.format == "avro" else JSON


def _secret_fields(spec: EventSpec) -> Headers:
    if not spec.secrets or spec.format != "json" or spec.encrypted:
        return ()
    # A reader without the class, such as the command line, has no schema that would tell what to hide.
    return ((SECRET_FIELDS, ",".join(spec.secrets).encode()),)


def read_structured(envelope: Envelope, value: bytes) -> Envelope:
    """Complete the envelope of a CloudEvents *structured* value, whose attributes stand in the value (JSON format §3).

    An envelope that has a type, or a value of another content type, is given back as it is.

    Raises:
        DecodeError: the value is not a CloudEvent of version 1.0, or carries its data as base64.
    """
    if envelope.type or envelope.content_type.partition(";")[0].strip().lower() != CLOUDEVENTS_JSON:
        return envelope
    found = _from_json(value)
    if not isinstance(found, dict) or found.get("specversion") != "1.0":
        raise DecodeError("the value is not a CloudEvent of specversion 1.0")
    taken: dict[str, Any] = {name: found.get(name) for name in ("id", "type", "source", "time")}
    if not all(isinstance(taken[name], str) and taken[name] for name in ("id", "type", "source")):
        raise DecodeError("a CloudEvent needs the attributes id, type and source as text")
    try:
        moment = envelope.time if taken["time"] is None else from_rfc3339(taken["time"])
    except (ValueError, TypeError):
        raise DecodeError("the CloudEvent's time is not an RFC 3339 time") from None
    more = {name: found[name] for name in _EXTENSIONS if isinstance(found.get(name), str)}
    return replace(
        envelope,
        id=taken["id"],
        type=taken["type"],
        source=taken["source"],
        time=moment,
        key=envelope.key or more.get("partitionkey", ""),
        traceparent=envelope.traceparent or more.get("traceparent"),
        tracestate=envelope.tracestate or more.get("tracestate"),
    )


def _untag(value: Any, layout: Layout | None) -> Any:
    """Turn fastavro's (record name, record) into an instance of the class of that name."""
    if type(value) is dict:
        return {name: _untag(part, layout) for name, part in value.items()}
    if type(value) is list:
        return [_untag(part, layout) for part in value]
    if type(value) is not tuple:
        return value
    name, record = value[0].rpartition(".")[2], _untag(value[1], layout)
    if layout is None:
        return record
    if name not in layout.models:
        # It may look like a record that the class knows, and mean another thing.
        raise DecodeError(f"the value holds a {name}, which the class does not know")
    model, convert = layout.models[name]
    record = record if convert is None else convert(record)
    return model.model_validate(record, by_alias=False, by_name=True)


def _avro_writer(spec: EventSpec, layout: Layout, schema_id: int, keys: Keys) -> Callable[[Event, str], bytes]:
    head = _MAGIC + schema_id.to_bytes(4, "big")
    parsed: Any = parse_schema(spec.schema or {})
    to_datum, places, type_ = layout.write, find_places(parsed), spec.type

    def write(event: Event, id_: str) -> bytes:
        try:
            datum = to_datum(event)
            if places is not None:
                datum = places.seal(datum, keys, type_, id_)
            stream = BytesIO()
            stream.write(head)
            schemaless_writer(stream, parsed, datum)
        except Exception:
            raise _unwritable(spec, event, layout) from None
        return stream.getvalue()

    return write


def _unwritable(spec: EventSpec, event: Event, layout: Layout) -> EncodeError:
    """Find the field that cannot be written, by writing one more each time."""
    schema = spec.content or {}
    places = find_places(parse_schema(schema))
    datum: dict[str, Any] = {}
    for count, field in enumerate(schema["fields"], start=1):
        name, problem = field["name"], "does not fit its Avro type"
        try:
            if name in layout.fields:
                datum[name] = layout.fields[name](event)
                datum[name] = datum[name] if places is None else places.try_field(name, datum[name])
            schemaless_writer(BytesIO(), parse_schema({**schema, "fields": schema["fields"][:count]}), datum)
            continue
        except Unwritable as error:
            problem = str(error)
        except OverflowError:
            problem = "does not fit in 64 bits"
        except Exception:  # noqa: S110 - its text would quote the value
            pass
        return EncodeError(f"{spec.type}.{name} {problem}", event_type=spec.type, field=name)
    return EncodeError(f"{spec.type} does not fit its Avro schema", event_type=spec.type)


def _json_writer(spec: EventSpec, keys: Keys) -> Callable[[Event, str], bytes]:
    def write(event: Event, id_: str) -> bytes:
        try:
            if not spec.encrypted:
                return event.model_dump_json(by_alias=True, context=Showing.VALUE).encode()
            data = event.model_dump(mode="json", by_alias=True, context=Showing.MARKED)
            return seal_json(data, keys, spec.type, id_, whole=spec.encrypted is True)
        except Exception:
            raise EncodeError(f"{spec.type} cannot be written as JSON", event_type=spec.type) from None

    return write


def _kind(content_type: str, value: bytes) -> str:
    kind = content_type.partition(";")[0].strip().lower()
    if kind in (AVRO, JSON, CLOUDEVENTS_JSON):
        return kind
    if kind in _AVRO_NAMES:
        return AVRO
    if kind == "text/json" or kind.endswith("+json"):
        return JSON
    if not kind:
        return JSON if value.lstrip()[:1] == b"{" else AVRO
    raise DecodeError(f"content type {kind[:60]!r} is none of {AVRO}, {JSON} and {CLOUDEVENTS_JSON}")


def _from_json(value: bytes) -> Any:
    try:
        return from_json(value)
    except ValueError:
        raise DecodeError("the value is not JSON") from None


def _no_magic() -> DecodeError:
    return DecodeError("the value does not begin with magic byte 0 and a schema id (Confluent wire format)")


def _invalid(cls: type[Event], error: ValidationError) -> DecodeError:
    # Only the rule and a field's name are told: pydantic's own text may quote the value, and a path may hold map keys.
    found = error.errors(include_url=False, include_input=False, include_context=False)
    fields = {alias for field in cls.model_fields.values() for alias in (field.alias, field.validation_alias)}
    told = []
    for problem in found[:3]:
        path = [part for part in problem["loc"] if part in cls.model_fields or part in fields]
        told.append(f"{path[0]}: {problem['type']}" if path else str(problem["type"]))
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return DecodeError(f"not a valid {cls.__name__}: {', '.join(told)}{more}", event_type=cls.__name__)
