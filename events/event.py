"""`Event`: a pydantic model that knows its topic, key and Avro schema, all checked where the class is defined."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Literal, Unpack, get_args
from uuid import UUID

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.errors import PydanticUserError

from .avro import Schema, Shape, derive, load_schema, shape_of, shape_of_field
from .errors import DefinitionError, MissingKey
from .foreign import Foreign
from .layout import bind
from .sealed import wrapped
from .secret import Secret, secret_paths

Format = Literal["avro", "json"]
Encrypted = Literal["secrets"] | bool

LONGEST_TOPIC = 245
"""Kafka allows 249 characters (`Topic.MAX_NAME_LENGTH`); four are left for the dead letters' `.dlq`."""

_TOPIC = re.compile(r"[A-Za-z0-9._-]+")
_TYPE = re.compile(r"[A-Za-z0-9._/:-]{1,200}")
_OURS = ("spec", "key_text")


@dataclass(frozen=True, slots=True)
class EventSpec:
    """What the wire knows of an event class.

    Args:
        type: public name, the `ce_type` header.
        topic: where it is published.
        key: the field that holds the business key.
        format: how its value is encoded.
        schema: its Avro schema as plain JSON values; None with `format="json"`.
        name: the class, for messages.
        foreign: how others write it; None for events of choreo.
        content: the schema of what it holds; another than `schema` where all of it is encrypted.
        encrypted: what of it travels encrypted: its `"secrets"`, all (True), or nothing.
        secrets: where it holds secrets, e.g. `card` or `items.pin`; in JSON by their aliases.
    """

    type: str
    topic: str
    key: str
    format: Format
    schema: Schema | None
    name: str
    foreign: Foreign | None = None
    content: Schema | None = None
    encrypted: Encrypted = False
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Options:
    topic: str | None = None
    key: str | None = None
    format: Format | None = None
    type: str | None = None
    schema: Mapping[str, Any] | str | None = None
    foreign: Foreign | None = None
    encrypted: Encrypted | None = None


class Event(BaseModel):
    """Base of all events and commands; instances cannot be changed.

    ```python
    class OrderPlaced(Event, topic="orders", key="order_id"):
        order_id: str
        total: Decimal
    ```

    Args:
        topic: where it is published; inherited. A class without one is abstract: a base for other events.
        key: the field that decides the partition and the saga; inherited. It is a str, int, UUID, or an Enum or Literal
            of these.
        type: public name on the wire; default: the class's name. Never inherited.
        format: `"avro"` (default) or `"json"`; inherited.
        schema: an Avro schema (a dict, or JSON text) instead of the derived one; it is checked against the fields.
        foreign: how its topic is read, where another system writes it as it pleases; inherited.
        encrypted: what travels encrypted: `"secrets"` (its `Secret[...]` fields) or True (everything); inherited.

    Raises:
        DefinitionError: where the class is defined, naming the field and the remedy.
    """

    # Any annotation passes pydantic, so that the check below can name the field and the remedy.
    model_config = ConfigDict(
        frozen=True,
        arbitrary_types_allowed=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
        ser_json_inf_nan="strings",
        hide_input_in_errors=True,
    )

    __choreo_options__: ClassVar[_Options] = _Options()
    __choreo_spec__: ClassVar[EventSpec | None] = None

    def __init_subclass__(
        cls,
        *,
        topic: str | None = None,
        key: str | None = None,
        type: str | None = None,  # noqa: A002 - the words of the class statement
        format: Format | None = None,  # noqa: A002
        schema: Mapping[str, Any] | str | None = None,
        foreign: Foreign | None = None,
        encrypted: Encrypted | None = None,
        **kwargs: Unpack[ConfigDict],
    ) -> None:
        # Seen before pydantic has built the fields; the work is done in the hook below, which gets the same arguments.
        super().__init_subclass__()

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        topic: str | None = None,
        key: str | None = None,
        type: str | None = None,  # noqa: A002 - the words of the class statement
        format: Format | None = None,  # noqa: A002
        schema: Mapping[str, Any] | str | None = None,
        foreign: Foreign | None = None,
        encrypted: Encrypted | None = None,
        **kwargs: Any,
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        name = cls.__name__
        for field in _OURS:
            if field in cls.model_fields:
                raise DefinitionError(f"{name}.{field}: Event uses this name itself; call the field something else")
        parent = cls.__choreo_options__
        if foreign is not None and not isinstance(foreign, Foreign):
            raise DefinitionError(f"{name}: foreign={foreign!r}; write foreign=Foreign(...)")
        encrypted = parent.encrypted if encrypted is None else encrypted
        options = _Options(
            topic or parent.topic,
            key or parent.key,
            format or parent.format,
            type,
            schema,
            foreign or parent.foreign,
            encrypted,
        )
        cls.__choreo_options__ = options
        cls.__choreo_spec__ = None
        if options.topic is None:
            if type is not None or format is not None or schema is not None:
                raise DefinitionError(
                    f'{name}: an event needs a topic; write class {name}(Event, topic="...", key="...")'
                )
            return
        _check_names(name, options)
        if cls.__pydantic_complete__:
            cls.__choreo_spec__ = _specify(cls, options)

    @classmethod
    def spec(cls) -> EventSpec:
        """Give what the wire knows of this class.

        Raises:
            DefinitionError: the class is abstract, or a class that its annotations name is missing.
        """
        found = cls.__choreo_spec__
        if found is None:
            if cls.__choreo_options__.topic is None:
                raise DefinitionError(
                    f"{cls.__name__} has no topic, so it is only a base for other events; "
                    f'write class {cls.__name__}(Event, topic="...", key="...")'
                )
            if not cls.__pydantic_complete__ and not cls.model_rebuild(raise_errors=False):
                raise DefinitionError(
                    f"{cls.__name__}: an annotation names a class that is not defined; define it before it is used"
                )
            found = cls.__choreo_spec__ = _specify(cls, cls.__choreo_options__)
        return found

    def key_text(self) -> str:
        """Give the business key as text: a str as it is, others by `str`, an Enum by its value.

        Raises:
            MissingKey: it is empty.
        """
        spec = self.spec()
        value = getattr(self, spec.key, None)
        if value.__class__ is not str:
            if isinstance(value, Enum):
                value = value.value
            value = "" if value is None else str(value)
        if not value:
            raise MissingKey(
                f"{spec.type}: its key {spec.key!r} is empty, so it has no partition and no saga; fill the field",
                event_type=spec.type,
                topic=spec.topic,
            )
        return value


def _check_names(name: str, options: _Options) -> None:
    topic, type_ = str(options.topic), options.type or name
    if not _TOPIC.fullmatch(topic) or topic in (".", "..") or len(topic) > LONGEST_TOPIC:
        raise DefinitionError(
            f"{name}: {topic[:60]!r} is no topic name; use at most {LONGEST_TOPIC} of letters, digits, '.', '_' and '-'"
        )
    if not _TYPE.fullmatch(type_):
        raise DefinitionError(
            f"{name}: {type_[:60]!r} is no event type; use ASCII letters, digits and . _ - / : "
            f'(class {name}(Event, type="..."))'
        )
    if options.format not in (None, "avro", "json"):
        raise DefinitionError(f'{name}: format={options.format!r} is unknown; use format="avro" or format="json"')
    if options.encrypted not in (None, False, True, "secrets"):
        raise DefinitionError(
            f'{name}: encrypted={options.encrypted!r} is unknown; use encrypted="secrets", or True for everything'
        )
    if options.encrypted and options.foreign is not None:
        raise DefinitionError(
            f"{name}: foreign= says that others write it as they please, so nobody encrypts it; leave out encrypted="
        )
    if options.encrypted == "secrets" and options.schema is not None:
        raise DefinitionError(
            f'{name}: encrypted="secrets" goes with the derived schema; leave schema= out, or say encrypted=True'
        )
    if options.format == "json" and options.schema is not None:
        raise DefinitionError(f'{name}: schema= is for Avro; leave it out or say format="avro"')
    if options.key is None:
        raise DefinitionError(f'{name}: which field is the key? write class {name}(Event, topic="{topic}", key="...")')


def _specify(cls: type[Event], options: _Options) -> EventSpec:
    name, key, type_ = cls.__name__, str(options.key), options.type or cls.__name__
    _check_key(cls, key)
    secrets = secret_paths(cls, aliases=options.format == "json")
    encrypted = options.encrypted or False
    if encrypted == "secrets" and not secrets:
        encrypted = False  # inherited from a base that means all events of a team
    _check_secrets(cls)
    content: Schema | None = None
    if options.format == "json":
        _check_json(cls)
    elif options.schema is None:
        content = derive(cls, type_, sealed=encrypted == "secrets")
    else:
        content = load_schema(options.schema, name)
        bind(shape_of(cls), content)
    schema = wrapped(content) if content is not None and encrypted is True else content
    if schema is not None and secrets:
        # Whoever shows an event by its schema alone must know what to hide.
        schema["secret"] = list(secrets)
    return EventSpec(
        type_,
        str(options.topic),
        key,
        options.format or "avro",
        schema,
        name,
        options.foreign,
        content,
        encrypted,
        secrets,
    )


def _check_secrets(cls: type[Event]) -> None:
    for name, field in cls.model_fields.items():
        if isinstance(field.default, Secret):
            raise DefinitionError(
                f"{cls.__name__}.{name}: a secret that stands in the code is none; leave the default out, or write "
                "Secret[...] | None = None"
            )


def _check_key(cls: type[Event], key: str) -> None:
    name = cls.__name__
    field = cls.model_fields.get(key)
    if field is None:
        known = ", ".join(cls.model_fields) or "none"
        raise DefinitionError(
            f"{name}: the key {key!r} is not one of its fields ({known}); correct key= or add the field"
        )
    shape = shape_of_field(cls, key)
    if any(branch.kind == "secret" for branch in (shape, *shape.branches)):
        raise DefinitionError(
            f"{name}.{key}: the key travels in the clear, beside the payload and in names of sagas; take another field"
        )
    if any(branch.kind == "null" for branch in shape.branches):
        raise DefinitionError(f"{name}.{key}: the key may be None, but every event needs one; make it required")
    if not _has_text(field.annotation, shape):
        raise DefinitionError(
            f"{name}.{key}: a key needs one textual form; use str, int, UUID, or an Enum or Literal of these"
        )


def _has_text(annotation: object, shape: Shape) -> bool:
    if shape.kind == "enum" or shape.kind in ("string", "long", "uuid"):
        if isinstance(annotation, type) and issubclass(annotation, Enum):
            return all(isinstance(member.value, (str, int, UUID)) for member in annotation)
        return all(isinstance(choice, (str, int)) for choice in get_args(annotation)) or shape.python in (
            str,
            int,
            UUID,
        )
    return False


def _check_json(cls: type[Event]) -> None:
    try:
        cls.model_json_schema()
        return
    except PydanticUserError:
        pass
    for name, field in cls.model_fields.items():
        try:
            annotation: Any = field.annotation
            TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True)).json_schema()
        except PydanticUserError:
            raise DefinitionError(
                f"{cls.__name__}.{name}: its type cannot be read from JSON; use a type that pydantic knows"
            ) from None
    raise DefinitionError(f"{cls.__name__}: it cannot be read from JSON; use types that pydantic knows")
