"""A client of the Confluent Schema Registry API, as Apicurio and Karapace speak it too."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import httpx

from .avro import Schema, canonical
from .compatibility import Level, check
from .errors import ConfigurationError, DecodeError, RegistryUnreachable, SchemaRefused
from .references import MOST_REFERENCES, inline
from .registry import RegisteredSchema, SingleFlight, objections, refused
from .registry_access import Access
from .settings import Settings

_MEDIA = "application/vnd.schemaregistry.v1+json"
_MOST_ANSWER_BYTES = 2_000_000
_LARGEST_ID = 0x7FFF_FFFF
_AT_ONCE = 8


def open_server(settings: Settings) -> ConfluentRegistry:
    """Open the registry at the settings' URL.

    Raises:
        ConfigurationError: the address, the credentials or a file of certificates cannot be used.
    """
    return ConfluentRegistry(Access.of(settings), compatibility=settings.compatibility)


class ConfluentRegistry:
    """Asks a schema registry server; answers are cached, each is asked for once, and no redirect is followed.

    The base URL comes only from settings and ids are whole numbers, so no message can make this client call elsewhere.
    Compatibility is checked here too, before the server is asked to: some servers check nothing unless told to, and few
    name the field.

    Args:
        access: where it is, and how to log in.
        compatibility: what must hold between a new schema and older ones; the server's own rule comes on top.
        forget_after: seconds that an unknown id is remembered as unknown.
    """

    def __init__(self, access: Access, *, compatibility: Level = "BACKWARD", forget_after: float = 30.0) -> None:
        self._url = access.url
        self._timeout = access.timeout
        self._compatibility = compatibility
        self._answers = SingleFlight(forget_after)
        self._client = httpx.AsyncClient(
            headers={
                "accept": f"{_MEDIA}, application/json",
                "accept-encoding": "identity",  # an answer is as large as it says
                **access.headers(),
            },
            timeout=access.timeout,
            verify=access.context(),
            follow_redirects=False,
            trust_env=False,
        )

    async def register(self, subject: str, schema: Schema) -> int:
        """Ask whether the schema is compatible, then register it; as `SchemaRegistry.register`."""

        async def ask() -> int:
            path, body = _path(subject), {"schema": canonical(schema), "schemaType": "AVRO"}
            status, found = await self._call("POST", path, body)
            if status == 200:  # registered already: the newest may differ, and that is no reason to refuse
                return _id(found)
            # A server that only compares texts does not find a schema that was spelled in another way.
            if self._compatibility.endswith("_TRANSITIVE"):
                older = await self.history(subject)
            else:
                newest = await self.latest(subject)
                older = [] if newest is None else [newest]
            for each in older:
                if canonical(each.schema) == body["schema"]:
                    return each.id
            problems = check(self._compatibility, schema, [each.schema for each in older])
            if problems:
                raise refused(subject, self._compatibility, problems)
            status, found = await self._call("POST", f"{path}/versions", body)
            if status in (409, 422):
                raise await self._refused(subject, body, found)
            self._expect(status, found)
            return _id(found)

        return await self._answers.get(("register", subject, canonical(schema)), ask)

    async def fetch(self, schema_id: int) -> Schema:
        """Give the schema of an id; as `SchemaRegistry.fetch`."""

        async def ask() -> Schema:
            if not 0 <= schema_id <= _LARGEST_ID:
                raise DecodeError(f"{schema_id} is not a schema id", schema_id=schema_id)
            status, found = await self._call("GET", f"/schemas/ids/{schema_id}")
            if self._is_missing(status, found):
                raise DecodeError(f"no schema has the id {schema_id} in the registry {self._url}", schema_id=schema_id)
            self._expect(status, found)
            return await self._schema(found, f"schema {schema_id}", {})

        return await self._answers.get(("fetch", schema_id), ask)

    async def latest(self, subject: str) -> RegisteredSchema | None:
        """Give the subject's newest schema, or None; never cached."""
        return await self._version(subject, "latest")

    async def history(self, subject: str) -> list[RegisteredSchema]:
        """Give all schemas of a subject, the oldest first; versions that were deleted are left out."""
        status, found = await self._call("GET", f"{_path(subject)}/versions")
        if self._is_missing(status, found):
            return []
        self._expect(status, found)
        if not isinstance(found, list):
            raise RegistryUnreachable(f"the schema registry {self._url} gave no list of versions")
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int) -> RegisteredSchema | None:
            async with gate:
                return await self._version(subject, str(number))

        numbers = sorted(number for number in found if isinstance(number, int))
        return [each for each in await asyncio.gather(*map(one, numbers)) if each is not None]

    async def subjects(self) -> list[str]:
        """Name all subjects, sorted."""
        status, found = await self._call("GET", "/subjects")
        if not self._is_missing(status, found):
            self._expect(status, found)
        if not isinstance(found, list):
            raise RegistryUnreachable(f"the schema registry {self._url} gave no list of subjects")
        return sorted(str(each) for each in found)

    async def objections(self, subject: str, schema: Schema) -> list[str]:
        """Say why a schema would be refused: by our rule, then by the server's own."""
        there = await self.history(subject)
        found = objections(self._compatibility, schema, there)
        if found or not there or any(canonical(each.schema) == canonical(schema) for each in there):
            return found
        status, said = await self._compatible(subject, {"schema": canonical(schema), "schemaType": "AVRO"})
        self._expect(status, said)
        if not isinstance(said, dict) or said.get("is_compatible") is not False:
            return []
        return [f"the registry's own rule: {each}" for each in _reasons(said) or ["it gives no reason"]]

    async def close(self) -> None:
        """Close the connections."""
        await self._answers.close()
        await self._client.aclose()

    async def _version(self, subject: str, version: str) -> RegisteredSchema | None:
        status, found = await self._call("GET", f"{_path(subject)}/versions/{version}")
        if self._is_missing(status, found):
            return None
        self._expect(status, found)
        number = found.get("version") if isinstance(found, dict) else None
        schema = await self._schema(found, f"the schema of {subject}", {})
        return RegisteredSchema(_id(found), schema, number if isinstance(number, int) else 0)

    async def _schema(self, found: Any, what: str, others: dict[tuple[str, int], Schema]) -> Schema:
        """Read an answer with a schema; the schemas that it refers to are asked for and put in their places.

        Args:
            found: the answer.
            what: it is about, for messages.
            others: those that were asked for on the way, by subject and version.
        """
        try:
            schema = json.loads(found["schema"]) if found.get("schemaType", "AVRO") == "AVRO" else None
            named = [(str(each["subject"]), int(each["version"])) for each in found.get("references") or ()]
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            schema, named = None, []
        if not isinstance(schema, (dict, list, str)):
            raise DecodeError(f"{what} is not an Avro schema")
        for key in named:
            if key not in others:
                if len(others) >= MOST_REFERENCES:
                    raise DecodeError(f"{what} refers to more than {MOST_REFERENCES} others")
                others[key] = {"type": "null"}  # met again while it is asked for: two that refer to each other
                others[key] = await self._referred(key, others)
        if named:
            try:
                schema = inline(schema, [others[key] for key in named])
            except (AttributeError, KeyError, TypeError, RecursionError):
                raise DecodeError(f"{what} is not an Avro schema") from None
        return schema if isinstance(schema, dict) else {"type": schema}

    async def _referred(self, key: tuple[str, int], others: dict[tuple[str, int], Schema]) -> Schema:
        subject, version = key
        status, found = await self._call("GET", f"{_path(subject)}/versions/{version}")
        if self._is_missing(status, found):
            raise DecodeError(f"the registry has no version {version} of {subject[:100]}, to which a schema refers")
        self._expect(status, found)
        return await self._schema(found, f"version {version} of {subject[:100]}", others)

    async def _refused(self, subject: str, body: dict[str, str], found: Any) -> SchemaRefused:
        """Tell why a server refuses; those that can name the reasons are asked for them."""
        _, said = await self._compatible(subject, body)
        told = found.get("message") if isinstance(found, dict) else None
        text = "; ".join(_reasons(said) or [_short(told or "it gives no reason")])
        return SchemaRefused(f"the registry refuses the schema of {subject}: {text}", subject=subject)

    async def _compatible(self, subject: str, body: dict[str, str]) -> tuple[int, Any]:
        return await self._call("POST", f"/compatibility{_path(subject)}/versions/latest?verbose=true", body)

    async def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> tuple[int, Any]:
        content = None if body is None else json.dumps(body)
        headers = None if body is None else {"content-type": _MEDIA}
        data = b""
        try:
            # httpx limits each wait; this limits them all, against an answer that comes byte by byte.
            async with (
                asyncio.timeout(self._timeout),
                self._client.stream(method, self._url + path, content=content, headers=headers) as response,
            ):
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > _MOST_ANSWER_BYTES:
                        raise DecodeError(f"the registry {self._url} answers with more than {_MOST_ANSWER_BYTES} bytes")
        except (TimeoutError, httpx.TimeoutException):
            raise RegistryUnreachable(
                f"the schema registry {self._url} does not answer within {self._timeout:g} s"
            ) from None
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise RegistryUnreachable(f"the schema registry {self._url} does not answer: {reason}") from None
        try:
            return response.status_code, json.loads(data)
        except (ValueError, RecursionError):
            return response.status_code, None

    def _is_missing(self, status: int, found: Any) -> bool:
        # Only the registry's own "not found" counts: a wrong base URL must not send events to the dead letters.
        if status == 404 and not (isinstance(found, dict) and "error_code" in found):
            raise ConfigurationError(
                f"{self._url} answers 404 and is no schema registry; set CHOREO_REGISTRY to its base URL"
            )
        return status == 404

    def _expect(self, status: int, found: Any) -> None:
        if status == 200:
            return
        if status in (401, 403):
            raise ConfigurationError(
                f"the schema registry {self._url} answers {status}: check CHOREO_REGISTRY_USER and ..._PASSWORD, or "
                "CHOREO_REGISTRY_TOKEN"
            )
        if 300 <= status < 400:
            raise ConfigurationError(
                f"the schema registry {self._url} answers {status}, a redirect, which is not followed; "
                "set CHOREO_REGISTRY to the final address"
            )
        said = f": {_short(found.get('message'))}" if isinstance(found, dict) and found.get("message") else ""
        raise RegistryUnreachable(f"the schema registry {self._url} answers {status}{said}")


def _path(subject: str) -> str:
    return f"/subjects/{quote(subject, safe='')}"


def _id(found: Any) -> int:
    schema_id = found.get("id") if isinstance(found, dict) else None
    if not isinstance(schema_id, int) or isinstance(schema_id, bool) or not 0 <= schema_id <= _LARGEST_ID:
        raise RegistryUnreachable("the schema registry gave no usable schema id")
    return schema_id


def _reasons(said: Any) -> list[str]:
    found = said.get("messages") if isinstance(said, dict) else None
    return [_short(each) for each in found[:3]] if isinstance(found, list) else []


def _short(text: Any) -> str:
    return " ".join(str(text).split())[:300]
