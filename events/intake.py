"""From a record to its envelope, for those who read events: also where another system wrote it as it pleases.

Headers are enough for what choreo writes and for CloudEvents in binary mode; the value is opened only where type or key
stand nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from .clock import from_datetime, from_rfc3339
from .codec import Codec, UnknownSchema, names_of_key, read_structured, write_json
from .envelope import AVRO, JSON, Delivery, Envelope, read_envelope
from .errors import DecodeError, DefinitionError, EventError, LimitExceeded
from .event import Event
from .foreign import Decoder, Field, Foreign, Header, Source, TimeSource
from .ids import derived_id
from .scan import MOST_VALUE_BYTES

_MOST_UNKNOWN = 10_000
_ENDS = str.maketrans("$/:", "...")


class Intake:
    """Reads the envelopes of records of some topics.

    Args:
        classes: the event classes that are of interest.
        codec: opens values where that is needed.

    Raises:
        DefinitionError: two classes of one topic say different things of how it is read.
    """

    def __init__(self, classes: Iterable[type[Event]], codec: Codec) -> None:
        self._codec = codec
        self._topics: dict[str, _Topic] = {}
        self._nowhere: set[int] = set()
        """Ids of schemas that the registry does not know."""
        for cls in classes:
            spec = cls.spec()
            self._topics.setdefault(spec.topic, _Topic(spec.topic)).add(cls)

    async def read_all(self, deliveries: Sequence[Delivery]) -> list[tuple[Delivery, Envelope | EventError]]:
        """Read the envelopes of records, or why they cannot be read.

        Raises:
            RegistryUnreachable: wait and call again.
        """
        found: list[tuple[Delivery, Envelope | EventError]] = []
        for delivery in deliveries:
            while True:
                try:
                    found.append((delivery, self.read(delivery)))
                except UnknownSchema as error:
                    await self._learn(error.schema_id)
                    continue
                except EventError as error:
                    found.append((delivery, error))
                break
        return found

    def read(self, delivery: Delivery) -> Envelope:
        """Read the envelope of a record.

        Raises:
            UnknownSchema: the codec must learn a schema first.
            DecodeError, LimitExceeded: it cannot be read.
        """
        topic = self._topics.get(delivery.topic)
        foreign = topic.foreign if topic is not None else None
        envelope = read_envelope(delivery if foreign is None or foreign.key is None else delivery._replace(key=None))
        if envelope.type and envelope.key and foreign is None:
            return envelope
        if delivery.value is None:
            return envelope
        if len(delivery.value) > MOST_VALUE_BYTES:
            raise LimitExceeded(f"a value of {len(delivery.value)} bytes, at most {MOST_VALUE_BYTES} are read")
        envelope = read_structured(envelope, delivery.value)
        if topic is None:
            return envelope
        opened = _Opened(self._codec, delivery, envelope.content_type)
        if foreign is not None:
            envelope = self._foreign(topic, foreign, opened, envelope)
        elif not envelope.type:
            envelope.type = self._guessed(topic, envelope, delivery.value)
        if not envelope.key and (cls := topic.classes.get(envelope.type)) is not None:
            envelope.key = _key_of(cls, opened)
        return envelope

    async def _learn(self, schema_id: int) -> None:
        try:
            await self._codec.learn(schema_id)
        except DecodeError:
            if len(self._nowhere) >= _MOST_UNKNOWN:
                self._nowhere.clear()
            self._nowhere.add(schema_id)

    def _foreign(self, topic: _Topic, foreign: Foreign, opened: _Opened, envelope: Envelope) -> Envelope:
        delivery = opened.delivery
        if foreign.key is not None:
            # A record of choreo's own, in a topic that others write too, has its key where choreo puts it.
            envelope.key = opened.text(foreign.key, "key") or _record_key(delivery)
        if envelope.type:
            envelope.type = topic.resolved(envelope.type)
            return envelope
        if foreign.id is not None and (id_ := opened.text(foreign.id, "id")):
            # Numbers from two systems must not be taken for copies of one event.
            envelope.id = derived_id("foreign", delivery.topic, id_)
        if foreign.time is not None:
            envelope.time = opened.time(foreign.time, envelope.time)
        if foreign.decode is not None:
            return _decoded(foreign.decode, delivery, envelope)
        if foreign.type is not None:
            envelope.type = topic.resolved(opened.text(foreign.type, "type"))
        elif len(topic.classes) == 1:
            envelope.type = next(iter(topic.classes))
        else:
            envelope.type = self._guessed(topic, envelope, delivery.value or b"")
        return envelope

    def _guessed(self, topic: _Topic, envelope: Envelope, value: bytes) -> str:
        """Say of which type a record without a type can only be: the topic's only JSON class, or its Avro record's."""
        if envelope.content_type in ("", AVRO) and value[:1] == b"\x00":
            if int.from_bytes(value[1:5], "big") in self._nowhere or len(value) < 5:
                return ""
            found = topic.resolved(self._codec.record_name(value))
            return found if found in topic.classes else ""
        if envelope.content_type in ("", JSON) and len(topic.classes) == 1:
            only = next(iter(topic.classes.values())).spec()
            return only.type if only.format == "json" else ""
        return ""


class _Topic:
    """What is known of a topic: its classes by type, and how others write it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.classes: dict[str, type[Event]] = {}
        self.foreign: Foreign | None = None

    def add(self, cls: type[Event]) -> None:
        spec = cls.spec()
        self.classes[spec.type] = cls
        if spec.foreign is None:
            return
        if self.foreign is not None and self.foreign != spec.foreign:
            raise DefinitionError(
                f"topic {self.name}: two classes say different things of how it is read (foreign=), {cls.__name__} is "
                "one of them; give both the same Foreign(...)"
            )
        self.foreign = spec.foreign

    def resolved(self, name: str) -> str:
        """Give the type that a foreign name means; the name itself where it means none."""
        if self.foreign is not None:
            name = self.foreign.types.get(name, name)
        if name in self.classes:
            return name
        last = name.translate(_ENDS).rpartition(".")[2]
        return last if last in self.classes else name


class _Opened:
    """A record whose value is opened when somebody asks, once."""

    def __init__(self, codec: Codec, delivery: Delivery, content_type: str) -> None:
        self._codec = codec
        self.delivery = delivery
        self._content_type = content_type
        self._found: dict[str, object] | None = None

    def fields(self) -> dict[str, object]:
        if self._found is None:
            self._found = self._codec.decode_any(self.delivery.value or b"", self._content_type)
        return self._found

    def text(self, source: Source, what: str) -> str:
        """Give a text, empty where it does not stand there."""
        found = self._at(source, what)
        if found is None:
            return ""
        if isinstance(found, bool) or not isinstance(found, (str, int)):
            raise DecodeError(
                f"the {what} of the record is {type(found).__name__}, and neither text nor a whole number"
            )
        return str(found)

    def time(self, source: TimeSource, default: int) -> int:
        """Give a time in microseconds."""
        found = self._at(source, "time")
        try:
            if found is None or found == "":
                return default
            if isinstance(found, datetime):
                return from_datetime(found)
            if isinstance(found, str) and not found.isdigit():
                return from_rfc3339(found)
            return int(found) * 1_000
        except (TypeError, ValueError, OverflowError, EventError):
            raise DecodeError("the time of the record is neither RFC 3339 nor whole milliseconds") from None

    def _at(self, source: Source | TimeSource, what: str) -> Any:
        if isinstance(source, Header):
            return _header(self.delivery, source.name)
        if isinstance(source, Field):
            return at_path(self.fields(), source.path)
        try:
            return source(self.delivery)
        except EventError:
            raise
        except Exception as error:
            raise DecodeError(f"the function that tells the {what} of a record raised {type(error).__name__}") from None


def at_path(found: object, path: str) -> object:
    """Give what stands at a path of names, None where nothing does."""
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def header_text(delivery: Delivery, name: str) -> str:
    """Give the text of a header, empty where there is none.

    Raises:
        DecodeError: it is not UTF-8 text.
    """
    return _header(delivery, name) or ""


def _header(delivery: Delivery, name: str) -> str | None:
    value = next((value for each, value in reversed(delivery.headers) if each == name), None)
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise DecodeError(f"header {name!r} is not UTF-8 text") from None
    # Spring's mapper can be told to write texts as JSON.
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _record_key(delivery: Delivery) -> str:
    try:
        return (delivery.key or b"").decode()
    except UnicodeDecodeError:
        return ""


def _key_of(cls: type[Event], opened: _Opened) -> str:
    """Read the key field of a record without a key; empty where its value cannot be read: its reader says so."""
    try:
        fields = opened.fields()
    except UnknownSchema:
        raise
    except EventError:
        return ""
    found = next((fields[name] for name in names_of_key(cls) if fields.get(name) is not None), "")
    return str(found)


def _decoded(decode: Decoder, delivery: Delivery, envelope: Envelope) -> Envelope:
    """Have a function of the user read a record."""
    called = getattr(decode, "__name__", type(decode).__name__)
    try:
        made = decode(delivery, replace(envelope))
    except EventError:
        raise
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise DecodeError(f"the decoder {called} found no valid {error.title}: {first['type']}") from None
    except Exception as error:
        raise DecodeError(f"the decoder {called} raised {type(error).__name__}") from None
    if made is None:
        return envelope
    if not (
        isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], Event) and isinstance(made[1], Envelope)
    ):
        raise DecodeError(f"the decoder {called} gave {type(made).__name__}; let it give (event, envelope) or None")
    event, told = made
    spec = event.spec()
    return replace(told, type=spec.type, key=event.key_text(), content_type=JSON, value=write_json(event))
