"""A client of the Confluent Schema Registry API, as Apicurio and Karapace speak it too."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from pydantic import SecretStr

from .avro import Schema, canonical
from .database import redacted
from .errors import ConfigurationError, DecodeError, RegistryUnreachable, SchemaRefused
from .registry import RegisteredSchema, SingleFlight

_MEDIA = "application/vnd.schemaregistry.v1+json"
_MOST_ANSWER_BYTES = 2_000_000
_LARGEST_ID = 0x7FFF_FFFF


class ConfluentRegistry:
    """Asks a schema registry server; answers are cached, each is asked for once, and no redirect is followed.

    The base URL comes only from settings and ids are whole numbers, so no message can make this client call elsewhere.

    Args:
        url: base URL, e.g. `http://127.0.0.1:8081` or `http://host/apis/ccompat/v7`.
        user, password: for basic authentication; both may be empty.
        ca: PEM file of the authorities that sign the server's certificate; None takes the system's.
        timeout: seconds for one request.
        forget_after: seconds that an unknown id is remembered as unknown.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str = "",
        password: SecretStr | None = None,
        ca: Path | None = None,
        timeout: float = 10.0,
        forget_after: float = 30.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                f"{redacted(url)!r} is not a schema registry; write http://host:port or https://..."
            )
        if parts.username or parts.password:
            raise ConfigurationError("give the registry's user and password as CHOREO_REGISTRY_USER and ..._PASSWORD")
        try:
            verify = ssl.create_default_context(cafile=str(ca) if ca else None)
        except OSError as error:
            raise ConfigurationError(f"cannot read the registry's CA file {ca}: {error.strerror or error}") from None
        self._url = url.rstrip("/")
        self._answers = SingleFlight(forget_after)
        self._client = httpx.AsyncClient(
            auth=httpx.BasicAuth(user, password.get_secret_value() if password else "") if user else None,
            headers={"accept": f"{_MEDIA}, application/json"},
            timeout=timeout,
            verify=verify,
            follow_redirects=False,
            trust_env=False,
        )

    async def register(self, subject: str, schema: Schema) -> int:
        """Ask whether the schema is compatible, then register it; as `SchemaRegistry.register`."""

        async def ask() -> int:
            path, body = f"/subjects/{quote(subject, safe='')}", {"schema": canonical(schema), "schemaType": "AVRO"}
            status, found = await self._call("POST", path, body)
            if status == 200:  # registered already: the newest may differ, and that is no reason to refuse
                return _id(found)
            status, found = await self._call("POST", f"/compatibility{path}/versions/latest?verbose=true", body)
            if status == 200 and isinstance(found, dict) and found.get("is_compatible") is False:
                raise _refused(subject, found.get("messages"))
            status, found = await self._call("POST", f"{path}/versions", body)
            if status in (409, 422):
                raise _refused(subject, found.get("message") if isinstance(found, dict) else None)
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
            return _schema(found, schema_id)

        return await self._answers.get(("fetch", schema_id), ask)

    async def latest(self, subject: str) -> RegisteredSchema | None:
        """Give the subject's newest schema, or None; never cached."""
        status, found = await self._call("GET", f"/subjects/{quote(subject, safe='')}/versions/latest")
        if self._is_missing(status, found):
            return None
        self._expect(status, found)
        schema_id = _id(found)
        return RegisteredSchema(schema_id, _schema(found, schema_id))

    async def close(self) -> None:
        """Close the connections."""
        await self._answers.close()
        await self._client.aclose()

    async def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> tuple[int, Any]:
        content = None if body is None else json.dumps(body)
        headers = None if body is None else {"content-type": _MEDIA}
        try:
            async with self._client.stream(method, self._url + path, content=content, headers=headers) as response:
                data = b""
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > _MOST_ANSWER_BYTES:
                        raise DecodeError(f"the registry {self._url} answers with more than {_MOST_ANSWER_BYTES} bytes")
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
                f"the schema registry {self._url} answers {status}: check CHOREO_REGISTRY_USER and ..._PASSWORD"
            )
        if 300 <= status < 400:
            raise ConfigurationError(
                f"the schema registry {self._url} answers {status}, a redirect, which is not followed; "
                "set CHOREO_REGISTRY to the final address"
            )
        said = f": {_short(found.get('message'))}" if isinstance(found, dict) and found.get("message") else ""
        raise RegistryUnreachable(f"the schema registry {self._url} answers {status}{said}")


def _id(found: Any) -> int:
    schema_id = found.get("id") if isinstance(found, dict) else None
    if not isinstance(schema_id, int) or isinstance(schema_id, bool) or not 0 <= schema_id <= _LARGEST_ID:
        raise RegistryUnreachable("the schema registry gave no usable schema id")
    return schema_id


def _schema(found: Any, schema_id: int) -> Schema:
    try:
        if found.get("schemaType", "AVRO") == "AVRO" and not found.get("references"):
            schema = json.loads(found["schema"])
            return schema if isinstance(schema, dict) else {"type": schema}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        pass
    raise DecodeError(f"schema {schema_id} is not an Avro schema that stands by itself", schema_id=schema_id)


def _refused(subject: str, said: Any) -> SchemaRefused:
    reasons = said if isinstance(said, list) else [said] if said else ["the registry gives no reason"]
    return SchemaRefused(
        f"the registry refuses the schema of {subject}: {'; '.join(_short(reason) for reason in reasons[:3])}",
        subject=subject,
    )


def _short(text: Any) -> str:
    return " ".join(str(text).split())[:300]
