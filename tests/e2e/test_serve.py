"""`saga serve` as a user has it: published, waited for, killed between the broker's answer and its own, and ended."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from choreo.events.envelope import read_envelope
from choreo.events.local import LocalBroker
from tests.support.cli import Program, environment, saga
from tests.support.commands import COMPOSE_FILE
from tests.support.ports import free_ports

SHOP = """
from choreo import Event, Saga, Service, step


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str
    total: int = 1


class StockReserved(Event, topic="inventory", key="order_id"):
    order_id: str


class Fulfilment(Saga, start=OrderPlaced, key="order_id"):
    reserve = step(done=StockReserved, undo=None, within="10m")


inventory = Service("inventory")


@inventory.on(OrderPlaced)
async def reserve(order: OrderPlaced) -> StockReserved:
    return StockReserved(order_id=order.order_id)
"""


class Served:
    """A shop, and a gateway that may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        [self.port] = free_ports(1)
        (folder / "shop.py").write_text(SHOP)
        self.env = environment(home=folder / "home")
        self.programs: list[Program] = []
        self.run("saga", "run", folder / "shop.py", name="run").until("running")

    def run(self, *command: object, name: str, **settings: object) -> Program:
        more = {f"CHOREO_{each.upper()}": str(value) for each, value in settings.items()}
        made = Program(command, env={**self.env, **more}, folder=self.folder, name=name)
        self.programs.append(made)
        made.start()
        return made

    def serve(self, *more: object, name: str = "serve", **settings: object) -> Program:
        target = self.folder / "shop.py"
        made = self.run(
            "saga", "serve", "--gateway", f"{target}:OrderPlaced", "--port", self.port, *more, name=name, **settings
        )
        made.until("serving")
        return made

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def place(self, order: str, run: str) -> httpx.Response:
        headers = {
            "ce-specversion": "1.0",
            "ce-source": "/scheduler",
            "ce-type": "OrderPlaced",
            "content-type": "application/json",
            "idempotency-key": run,
        }
        return httpx.post(self.url("/events"), content=json.dumps({"order_id": order}), headers=headers, timeout=60)

    def outcome(self, accepted: httpx.Response) -> dict[str, Any]:
        told: dict[str, Any] = httpx.get(self.url(f"{accepted.headers['location']}&wait=60"), timeout=90).json()
        return told

    def published(self, topic: str) -> list[str]:
        async def read() -> list[str]:
            async with LocalBroker(self.folder / "home" / "broker.db") as broker:
                return [read_envelope(each).id for each in await broker.snapshot(topic)]

        return asyncio.run(read())


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    for program in made.programs:
        program.close()


def test_a_task_of_a_scheduler_is_retried_whatever_happens_to_the_gateway(served: Served) -> None:
    """Killed after the broker has acknowledged and before the caller has its answer: the retry finds the same saga."""
    doomed = served.serve(name="doomed", crash_at="gateway.after_send:1")
    with pytest.raises(httpx.TransportError):
        served.place("4711", "run-17")
    assert doomed.wait() == -signal.SIGKILL
    assert len(served.published("orders")) == 1
    gateway = served.serve()
    accepted = served.place("4711", "run-17")
    assert accepted.status_code == 202
    assert served.published("orders") == [accepted.json()["id"]] * 2, "a copy, under the same id"
    told = served.outcome(accepted)
    assert (told["id"], told["phase"]) == ("fulfilment/4711", "COMPLETED")
    listed = saga("list", "--all", "-o", "id", env=served.env)
    assert listed.stdout.split() == ["fulfilment/4711"]
    waited = saga("wait", "fulfilment/4711", env=served.env)
    assert waited.returncode == 0, waited.stderr
    assert gateway.stop() == 0


def test_who_waits_is_answered_when_the_gateway_is_ended(served: Served) -> None:
    gateway = served.serve()
    waiting = HTTPConnection("127.0.0.1", served.port, timeout=90)
    waiting.request("GET", "/sagas/fulfilment/none?wait=60")
    assert httpx.get(served.url("/health"), timeout=60).is_success, "who asked before that waits by now"
    assert gateway.stop() == 0
    with closing(waiting):
        assert waiting.getresponse().status == 404


def test_the_webhook_is_posted_the_ends_of_sagas(served: Served, tmp_path: Path) -> None:
    posted: list[dict[str, Any]] = []
    [port] = free_ports(1)

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].split()[0])
        posted.append(json.loads(await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 204 x\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async def receiving() -> None:
        async with await asyncio.start_server(receive, "127.0.0.1", port):
            for _ in range(1_200):
                if posted:
                    return
                await asyncio.sleep(0.05)

    secret = "0123456789abcdef0123456789abcdef"
    gateway = served.serve("--webhook", f"http://127.0.0.1:{port}/ends?token=hidden", webhook_secret=secret)
    served.place("4711", "run-17")
    asyncio.run(receiving())
    assert [(each["subject"], each["data"]["phase"]) for each in posted] == [("fulfilment/4711", "COMPLETED")]
    assert gateway.stop() == 0
    assert secret not in gateway.output
    assert "hidden" not in gateway.output


def test_the_gateway_tells_what_it_knows_itself_at_its_health_port(served: Served) -> None:
    [health] = free_ports(1)
    gateway = served.serve("--health", health)
    placed = served.place("4711", "first")
    assert placed.status_code == 202
    assert served.outcome(placed)["phase"] == "COMPLETED"
    assert httpx.get(served.url("/nowhere/4711"), timeout=60).status_code == 404
    found = _scraped(health)
    key = {"http_request_method": "POST", "http_route": "/events", "http_response_status_code": "202"}
    assert found["http_server_request_duration_seconds_count", *_sorted(key)] == 1
    sent = [value for (name, *labels), value in found.items() if name == "messaging_client_sent_messages_total"]
    assert sum(sent) >= 1, "what it has published"
    routes = {dict(labels).get("http_route") for (_, *labels) in found}
    assert "" in routes and not any("4711" in route for route in routes if route), "no path that a user wrote"
    names = {name for name, *_ in found}
    assert not any(name.startswith("saga_") for name in names), "of sagas the coordinators tell"
    ready = httpx.get(f"http://127.0.0.1:{health}/readyz", timeout=60)
    assert (ready.status_code, ready.json()["ok"]) == (200, True)
    assert gateway.stop() == 0


def _sorted(labels: dict[str, str]) -> list[tuple[str, str]]:
    return sorted(labels.items())


def _scraped(port: int) -> dict[tuple[Any, ...], float]:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    return {(each.name, *_sorted(each.labels)): each.value for each in samples}


def test_the_web_view_and_webhooks_are_scraped_like_any_process(served: Served) -> None:
    [health] = free_ports(1)
    web = served.run(
        "saga", "serve", "--web", "--webhook", "http://127.0.0.1:1/", "--port", served.port, "--health", health,
        name="web", webhook_secret="0123456789abcdef0123456789",
    )  # fmt: skip
    web.until("serving")
    assert httpx.get(served.url("/sagas/none.json"), timeout=60).status_code == 404
    with httpx.stream("GET", served.url("/live"), timeout=60) as stream:
        events = stream.iter_text()
        assert "hello" in next(events)
        found = _scraped(health)
    key = {"http_request_method": "GET", "http_route": "/sagas/{id:path}", "http_response_status_code": "404"}
    assert found["http_server_request_duration_seconds_count", *_sorted(key)] == 1
    assert found["choreo_web_streams",] == 1
    assert not any(("http_route", "/live") in labels for _, *labels in found), "a stream lasts as long as one looks"
    handled = {"messaging_consumer_group_name": "choreo.webhook", "choreo_outcome": "handled"}
    assert ("choreo_handled_messages_total", *_sorted(handled)) in found
    ready = httpx.get(f"http://127.0.0.1:{health}/readyz", timeout=60).json()
    assert [each["name"] for each in ready["parts"]] == ["choreo.webhook"]
    check = [sys.executable, COMPOSE_FILE.parent / "healthy.py"]
    judged = subprocess.run(check, capture_output=True, text=True, env=environment(health=str(health)), check=False)
    assert judged.returncode == 0, judged.stdout
    assert web.stop() == 0
