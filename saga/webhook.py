"""The webhooks: ends of sagas, or alerts, are posted to a URL, signed, by a service of choreo with a group of its own.

The signature is that of Standard Webhooks (https://www.standardwebhooks.com): receivers check it with its libraries.
What the receiver does not take is tried again with growing pauses, and at last becomes a dead letter like any other.
"""

from __future__ import annotations

import asyncio
import hmac
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from hashlib import sha256
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx
from pydantic_core import to_json

from ..events.clock import SECOND, Clock, system_clock, to_rfc3339
from ..events.errors import ChoreoError, ConfigurationError, Permanent
from ..events.event import Event
from ..services.context import Context
from ..services.retry import Retry
from ..services.service import Service
from .alerts import AlertRaised
from .outcomes import SagaEnded

SERVICE = "choreo.webhook"
ALERTS = "choreo.alert-webhook"

LEAST_SECRET = 24
"""Bytes of a secret, as Standard Webhooks asks for."""

_PATIENCE = 15.0
_AGAIN = frozenset((408, 409, 425, 429))
_USUAL = Retry(attempts=10, first="1s", most="60s")


class NotDelivered(ChoreoError):
    """The receiver did not take it this time."""

    retryable = True


class Webhook:
    """Posts the ends of sagas, or alerts; run its `service` while the webhook is open (`async with`).

    Args:
        url: of the receiver, `https://...`.
        secret: signs what is sent: `whsec_` and base64, or plain text; 24 bytes at least.
        retry: default: ten tries within about five minutes.
        clock: of the signature's timestamp.
        alerts: post these, not ends.

    Raises:
        ConfigurationError: the URL is none, or the secret is missing or too short.
    """

    def __init__(
        self, url: str, secret: str, *, retry: Retry = _USUAL, clock: Clock = system_clock, alerts: bool = False
    ) -> None:
        self._url = _checked(url)
        self._secret = _secret(secret)
        self._clock = clock
        self.alerts = alerts
        self._client: httpx.AsyncClient | None = None
        self.service = Service(ALERTS if alerts else SERVICE, store=None, concurrency=20)
        if alerts:

            @self.service.on(AlertRaised, retry=retry)
            async def deliver_alert(alert: AlertRaised, context: Context) -> None:
                await self._deliver(alert, alert.saga or alert.key, context)

        else:

            @self.service.on(SagaEnded, retry=retry)
            async def deliver(end: SagaEnded, context: Context) -> None:
                await self._deliver(end, end.saga, context)

    @property
    def host(self) -> str:
        """The receiver's host; the rest of its URL may be secret."""
        return urlsplit(self._url).hostname or ""

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(timeout=_PATIENCE, follow_redirects=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _deliver(self, event: Event, subject: str, context: Context) -> None:
        if self._client is None:
            raise NotDelivered("the webhook is not open")
        envelope = context.envelope
        body = to_json(
            {
                "specversion": "1.0",
                "id": envelope.id,
                "type": envelope.type,
                "source": envelope.source,
                "subject": subject,
                "time": to_rfc3339(envelope.time),
                "datacontenttype": "application/json",
                "data": event.model_dump(mode="json"),
            }
        )
        seconds = self._clock() // SECOND
        headers = {
            "content-type": "application/cloudevents+json",
            "webhook-id": envelope.id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": sign(self._secret, envelope.id, seconds, body),
        }
        if envelope.traceparent is not None:
            headers["traceparent"] = envelope.traceparent
        status = await self._post(self._client, body, headers)
        if 200 <= status < 300:
            return
        told = f"the receiver of the webhook answered {status}"
        if 300 <= status < 500 and status not in _AGAIN:
            raise Permanent(f"{told}; mend it, then: saga dlq retry --service {self.service.name} --reason ...")
        raise NotDelivered(told)

    async def _post(self, client: httpx.AsyncClient, body: bytes, headers: dict[str, str]) -> int:
        try:
            async with (
                asyncio.timeout(_PATIENCE),
                client.stream("POST", self._url, content=body, headers=headers) as answer,
            ):
                return answer.status_code  # whatever else it says is not read
        except (httpx.HTTPError, TimeoutError) as error:
            # Its text may hold the URL, and the URL a secret.
            raise NotDelivered(f"the receiver of the webhook cannot be reached: {type(error).__name__}") from None


def sign(secret: bytes, id_: str, timestamp: int, body: bytes) -> str:
    """Sign a message: HMAC-SHA256 over id, timestamp and body.

    Args:
        secret: shared with the receiver.
        id_: of the message.
        timestamp: seconds since the Unix epoch.
        body: as it is sent.

    Returns:
        The header's value, `v1,` and the signature in base64.
    """
    digest = hmac.new(secret, f"{id_}.{timestamp}.".encode() + body, sha256).digest()
    return f"v1,{b64encode(digest).decode()}"


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise ConfigurationError("the webhook's URL is none; write --webhook https://host/path")
    return url


def _secret(text: str) -> bytes:
    if text.startswith("whsec_"):
        try:
            secret = b64decode(text.removeprefix("whsec_"), validate=True)
        except (Base64Error, ValueError):
            raise ConfigurationError("CHOREO_WEBHOOK_SECRET begins with whsec_, but no base64 follows") from None
    else:
        secret = text.encode()
    if len(secret) < LEAST_SECRET:
        found = "is missing" if not secret else "is too short to sign with"
        raise ConfigurationError(
            f"CHOREO_WEBHOOK_SECRET {found}; set whsec_ and the output of `openssl rand -base64 32`"
        )
    return secret
