"""The webhook: every end is posted, signed, tried again, and at last a dead letter like any other."""

from __future__ import annotations

import asyncio
import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import pytest

from choreo import ConfigurationError, Retry
from choreo.saga.ends import end_id
from choreo.saga.loading import Parts
from choreo.saga.running import Process
from choreo.saga.webhook import SERVICE, Webhook, sign
from choreo.services.letters import read_letters
from tests.saga.stage import Paid, Placed, Refused, Reserved, Stage

KEY = b"0123456789abcdef0123456789abcdef"
SECRET = f"whsec_{b64encode(KEY).decode()}"
NOW = 1_795_251_731_000_000
QUICK = Retry(attempts=3, first="10ms", most="20ms")


class Receiver:
    """An HTTP server that answers as it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                headers: dict[str, str] = {"": line.decode().strip()}
                while (line := await reader.readline()).strip():
                    name, _, value = line.decode().partition(":")
                    headers[name.lower()] = value.strip()
                self.requests.append((headers, await reader.readexactly(int(headers["content-length"]))))
                status = self.answers.pop(0) if self.answers else 204
                location = "Location: /elsewhere\r\n" if status == 302 else ""
                writer.write(f"HTTP/1.1 {status} x\r\n{location}Content-Length: 0\r\n\r\n".encode())
                await writer.drain()
        finally:
            writer.close()

    async def eventually(self, number: int) -> list[tuple[dict[str, str], bytes]]:
        for _ in range(6_000):
            if len(self.requests) >= number:
                return self.requests
            await asyncio.sleep(0.01)
        raise AssertionError(f"{len(self.requests)} requests, not {number}, after a minute")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/ends?token=the-secret-of-the-url"
    yield made
    server.close()


@asynccontextmanager
async def posting(stage: Stage, url: str, *, alerts: bool = False) -> AsyncIterator[None]:
    hook = Webhook(url, SECRET, retry=QUICK, clock=lambda: NOW, alerts=alerts)
    parts = Parts((hook.service,))
    async with hook, Process(parts, stage.broker, stage.settings, create_topics=True):
        yield


def verified(headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """Check a signature as a receiver does (Standard Webhooks), with nothing of ours, and read the body."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = hmac.new(KEY, signed, sha256).digest()
    version, _, signature = headers["webhook-signature"].partition(",")
    assert version == "v1"
    assert hmac.compare_digest(b64decode(signature), expected)
    told: dict[str, Any] = json.loads(body)
    return told


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(6_000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not so after a minute")


async def test_an_end_is_posted_as_a_signed_cloudevent(sqlite_stage: Stage, receiver: Receiver) -> None:
    stage = sqlite_stage
    await stage.start()
    async with posting(stage, receiver.url):
        await stage.publish(Placed(order_id="4711"), Reserved(order_id="4711"), Paid(order_id="4711"))
        [(headers, body)] = await receiver.eventually(1)
    told = verified(headers, body)
    assert headers[""].startswith("POST /ends?token=")
    assert headers["content-type"] == "application/cloudevents+json"
    assert headers["webhook-timestamp"] == str(NOW // 1_000_000)
    assert headers["traceparent"].startswith("00-")
    assert told["id"] == headers["webhook-id"] == end_id("order/4711", 0)
    assert (told["type"], told["source"], told["subject"]) == ("SagaEnded", "choreo/order", "order/4711")
    assert (told["data"]["phase"], told["data"]["key"]) == ("COMPLETED", "4711")


async def test_what_is_not_taken_is_tried_again_under_the_same_id(sqlite_stage: Stage, receiver: Receiver) -> None:
    stage = sqlite_stage
    receiver.answers = [503, 429]
    await stage.start()
    async with posting(stage, receiver.url):
        await stage.publish(Placed(order_id="1"), Refused(order_id="1"))
        requests = await receiver.eventually(3)
        await until(lambda: not receiver.answers)
    assert {headers["webhook-id"] for headers, _ in requests} == {end_id("order/1", 0)}
    assert len({body for _, body in requests}) == 1
    assert await read_letters(stage.broker) == []


@pytest.mark.parametrize(("answers", "tries"), [([500, 500, 500], 3), ([404], 1), ([302], 1)])
async def test_what_is_never_taken_becomes_a_dead_letter_and_holds_up_nobody(
    sqlite_stage: Stage, receiver: Receiver, answers: list[int], tries: int
) -> None:
    stage = sqlite_stage
    receiver.answers = list(answers)
    await stage.start()
    async with posting(stage, receiver.url):
        await stage.publish(Placed(order_id="1"), Refused(order_id="1"))
        await receiver.eventually(tries)
        for _ in range(6_000):
            if letters := await read_letters(stage.broker):
                break
            await asyncio.sleep(0.01)
        await stage.publish(Placed(order_id="2"), Refused(order_id="2"))
        assert verified(*(await receiver.eventually(tries + 1))[-1])["subject"] == "order/2"
    [letter] = letters
    headers = dict(letter.letter.delivery.headers)
    assert headers["dlq-service"] == SERVICE.encode()
    assert b"the-secret-of-the-url" not in b"".join(headers.values())
    assert len(receiver.requests) == tries + 1


async def test_a_receiver_that_is_away_is_told_without_its_url(sqlite_stage: Stage, unused_url: str) -> None:
    stage = sqlite_stage
    await stage.start()
    async with posting(stage, unused_url):
        await stage.publish(Placed(order_id="1"), Refused(order_id="1"))
        for _ in range(6_000):
            if letters := await read_letters(stage.broker):
                break
            await asyncio.sleep(0.01)
    headers = dict(letters[0].letter.delivery.headers)
    assert b"ConnectError" in headers["dlq-message"]
    assert b"the-secret" not in b"".join(headers.values())


@pytest.fixture
async def unused_url() -> str:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return f"http://127.0.0.1:{port}/?token=the-secret"


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of its specification."""
    secret = b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    assert sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@pytest.mark.parametrize(
    ("url", "secret", "told"),
    [
        ("shop.example/ends", SECRET, "write --webhook https://"),
        ("ftp://shop.example/ends", SECRET, "write --webhook https://"),
        ("https://[", SECRET, "write --webhook https://"),
        ("https://shop.example/ends", "", "CHOREO_WEBHOOK_SECRET is missing"),
        ("https://shop.example/ends", "the-short-one", "too short to sign with"),
        ("https://shop.example/ends", "whsec_not base64", "no base64 follows"),
    ],
)
def test_what_cannot_be_signed_or_sent_is_refused(url: str, secret: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as refused:
        Webhook(url, secret)
    assert "short-one" not in refused.value.message
