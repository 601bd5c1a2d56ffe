"""The body of a dead letter as JSON that a person can read and mend, by the schema that it was written with."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...events.errors import ConfigurationError, DecodeError

if TYPE_CHECKING:
    from ...events.schema_changes import Change
    from ...events.settings import Settings
    from ...events.transport import Transport
    from ...services.letters import Letter

_HEAD = 5  # magic byte and schema id of the Confluent wire format


async def read_body(
    settings: Settings, transport: Transport, letter: Letter, *, reveal: bool = False
) -> tuple[Any, str | None]:
    """Decode a letter's body, secrets masked; give it, or None and why it cannot be read.

    Args:
        settings: where the schema registry is, and the keys.
        transport: an open broker.
        letter: whose.
        reveal: show secrets, and decrypt what is encrypted.
    """
    from ..payloads import Payloads, told_secrets

    value = letter.delivery.value
    if value is None:
        return None, "the letter has no value" if letter.complete else "the letter was too large to keep its value"
    async with Payloads(settings, transport, reveal=reveal) as payloads:
        secrets = told_secrets(letter.delivery.headers)
        return await payloads.read(value, _content_type(letter), letter.type, letter.event_id, secrets)


async def changed_since(settings: Settings, transport: Transport, letter: Letter) -> list[Change]:
    """Say what is different between the schema that a letter was written with and the newest one of its event.

    Args:
        settings: where the schema registry is.
        transport: an open broker.
        letter: whose; one that is not Avro, or of a type that the registry does not know, has nothing to compare.
    """
    from ...events.codec import subject_of
    from ...events.registry import open_registry
    from ...events.schema_changes import changes

    value = letter.delivery.value or b""
    if value[:1] != b"\0" or len(value) < _HEAD or not letter.type:
        return []
    registry = open_registry(settings, transport)
    try:
        newest = await registry.latest(subject_of(letter.target, letter.type))
        if newest is None:
            return []
        return changes(await registry.fetch(int.from_bytes(value[1:_HEAD], "big")), newest.schema)
    except DecodeError:
        return []  # the body says so already
    finally:
        await registry.close()


class Body(NamedTuple):
    """A letter's body as a person may change it.

    Args:
        text: as JSON, secrets masked; None where it cannot be shown, and may only be replaced.
        changed: makes the value of a text; None where nothing was changed. Where a mask still stands, the secret does.
            It raises ConfigurationError: the text is not JSON, or does not fit the schema.
    """

    text: str | None
    changed: Callable[[str], bytes | None]


async def mend(settings: Settings, transport: Transport, letter: Letter, data: str) -> bytes | None:
    """Let a person change a letter's body; give the new value, None where nothing was changed.

    Args:
        settings: where the schema registry is.
        transport: an open broker.
        letter: whose.
        data: the new body as JSON; empty opens `$EDITOR`.

    Raises:
        ConfigurationError: the new body is not JSON, or does not fit the schema.
        DecodeError: the present one cannot be read, so it cannot be edited.
    """
    body = await editable(settings, transport, letter)
    if data:
        return body.changed(data)
    if body.text is None:
        raise ConfigurationError(f"{letter.id} is not JSON and may hold secrets; give the new body with --data")
    return body.changed(await _edited(body.text))


async def editable(settings: Settings, transport: Transport, letter: Letter) -> Body:
    """Give a letter's body as a person may change it.

    Args:
        settings: where the schema registry is.
        transport: an open broker.
        letter: whose.

    Raises:
        DecodeError: the present one cannot be read, so it cannot be edited.
    """
    from fastavro import json_reader, json_writer, parse_schema, schemaless_reader, schemaless_writer
    from fastavro.validation import validate

    from ...events.registry import open_registry
    from ...events.sealed import find_places
    from ...events.secret import masked
    from ...events.writer import secrets_of

    value = letter.delivery.value
    if value is None:
        raise DecodeError(f"{letter.id} has no value to edit; give it one with --data")
    if value[:1] != b"\0":
        return _json_body(letter, value)
    _, problem = await read_body(settings, transport, letter)  # with its strict scan, before fastavro sees the bytes
    if problem is not None:
        raise DecodeError(f"{letter.id}: {problem}")
    registry = open_registry(settings, transport)
    try:
        schema = parse_schema(await registry.fetch(int.from_bytes(value[1:_HEAD], "big")))
    finally:
        await registry.close()
    before = schemaless_reader(io.BytesIO(value[_HEAD:]), schema, None)
    spelled = io.StringIO()
    json_writer(spelled, schema, [before])
    told = json.loads(spelled.getvalue())
    shown = json.dumps(masked(told, [*secrets_of(schema), *_secret_paths(letter)]), indent=2, ensure_ascii=False)

    def changed(text: str) -> bytes | None:
        edited = json.dumps(_unmasked(_parsed(text), told), ensure_ascii=False)
        try:
            after = next(iter(json_reader(io.StringIO(edited), schema)))
            validate(after, schema)
        except Exception as error:
            raise ConfigurationError(
                f"the new body does not fit its schema ({type(error).__name__}); nothing was sent"
            ) from None
        if after == before:
            return None
        places = find_places(schema)
        if places is not None and not set(places.sealed(after)) <= set(places.sealed(before)):
            raise ConfigurationError("what is encrypted cannot be edited; edit other fields, or publish a new event")
        out = io.BytesIO()
        out.write(value[:_HEAD])
        schemaless_writer(out, schema, after)
        return out.getvalue()

    return Body(shown, changed)


def _json_body(letter: Letter, value: bytes) -> Body:
    from ...events.secret import masked

    secrets, before = _secret_paths(letter), _same(value)
    if before is None:
        shown = None if secrets else value.decode(errors="replace")
        return Body(shown, lambda text: json.dumps(_parsed(text), ensure_ascii=False).encode())

    def changed(text: str) -> bytes | None:
        after = _unmasked(_parsed(text), before)
        return None if after == before else json.dumps(after, ensure_ascii=False).encode()

    return Body(json.dumps(masked(before, secrets), indent=2, ensure_ascii=False), changed)


def _unmasked(after: Any, before: Any) -> Any:
    from ...events.secret import MASK

    if after == MASK and before is None:
        raise ConfigurationError(f"{MASK} stands for a secret, and there is none in its place; nothing was sent")
    if after == MASK:
        return before
    if isinstance(after, dict):
        known = before if isinstance(before, dict) else {}
        return {name: _unmasked(each, known.get(name)) for name, each in after.items()}
    if isinstance(after, list):
        items = before if isinstance(before, list) else []
        return [_unmasked(each, items[index] if index < len(items) else None) for index, each in enumerate(after)]
    return after


async def _edited(text: str) -> str:
    """Open the text in the person's editor; give what they made of it."""
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
    if not command:
        raise ConfigurationError("which editor? set EDITOR, or give the new body with --data")
    with tempfile.TemporaryDirectory(prefix="choreo-") as folder:  # readable by its owner only: it holds a payload
        file = Path(folder) / "body.json"
        file.write_text(text)
        process = await asyncio.create_subprocess_exec(*command, str(file))
        if await process.wait():
            raise ConfigurationError(f"{command[0]} ended with {process.returncode}; nothing was sent")
        return file.read_text()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"the new body is not JSON: {error}") from None


def _same(value: bytes) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return None


def _secret_paths(letter: Letter) -> list[str]:
    from ..payloads import told_secrets

    return told_secrets(letter.delivery.headers)


def _content_type(letter: Letter) -> str:
    return next(
        (value.decode(errors="replace") for name, value in letter.delivery.headers if name == "content-type"), ""
    )
