"""A shop that runs and a web view of it, as a user has them: processes on an embedded broker, a token for each role."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Thread
from typing import Any

import httpx

from choreo import Event, Publisher
from choreo.events.settings import load_settings
from choreo.events.transports import connect
from tests.support.cli import Program, environment, saga
from tests.support.ports import free_ports

SHOP = """
from choreo import Event, Permanent, Retry, Saga, Service, approval, step


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str
    note: str = ""


class StockReserved(Event, topic="inventory", key="order_id"):
    order_id: str


class StockRefused(Event, topic="inventory", key="order_id"):
    order_id: str


class ReleaseStock(Event, topic="inventory.commands", key="order_id"):
    order_id: str


class StockReleased(Event, topic="inventory", key="order_id"):
    order_id: str


class ShipOrder(Event, topic="shipping.commands", key="order_id"):
    order_id: str


class OrderShipped(Event, topic="shipping", key="order_id"):
    order_id: str


class Fulfilment(Saga, start=OrderPlaced, key="order_id", active_from="beginning"):
    reserve = step(done=StockReserved, failed=StockRefused, undo=ReleaseStock, undone=StockReleased, within="1h")
    review = approval(who="fraud-ops", within="1d", after=reserve)
    ship = step(after=review, send=ShipOrder, done=OrderShipped, undo=None, within="1h", pivot=True)


inventory = Service("inventory")
shipping = Service("shipping")


@inventory.on(OrderPlaced, retry=Retry(attempts=1))
async def reserve(order: OrderPlaced) -> StockReserved | StockRefused:
    if order.note == "refuse":
        return StockRefused(order_id=order.order_id)
    if order.note.startswith("poison"):
        raise Permanent("<img src=x onerror=alert(1)> cannot take it")
    return StockReserved(order_id=order.order_id)


@inventory.on(ReleaseStock)
async def release(command: ReleaseStock) -> StockReleased:
    return StockReleased(order_id=command.order_id)


@shipping.on(ShipOrder)
async def ship(command: ShipOrder) -> OrderShipped:
    return OrderShipped(order_id=command.order_id)
"""


class OrderPlaced(Event, topic="orders", key="order_id"):
    order_id: str
    note: str = ""


TOKENS = {"viewer": "v" * 24, "operator": "o" * 24, "admin": "a" * 24}
HOSTILE = ('<script>document.title="owned"</script>', "javascript:alert(1)", "\u202egnp.exe", "k" * 400, "a.json")
"""Business keys of somebody who means us ill."""


class ServedShop:
    """Runs the shop and its web view until `stop`.

    Args:
        folder: an empty one.
        tokens: people must say who they are.
    """

    def __init__(self, folder: Path, *, tokens: bool = True) -> None:
        self.folder = folder
        [self.port] = free_ports(1)
        (folder / "shop.py").write_text(SHOP)
        self.home = folder / "home"
        self.env = environment(home=self.home, jaeger="http://127.0.0.1:16686")
        if tokens:
            said = ",".join(f"{role}:{role}-ann={token}" for role, token in TOKENS.items())
            self.env["CHOREO_WEB_TOKENS"] = said
        self.programs: list[Program] = []

    @property
    def url(self) -> str:
        """Where the web view is."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Run the shop, place orders of each kind, and serve the web view."""
        self._run("run", self.folder / "shop.py", name="run").until("running")
        poison = "poison <script>document.title='owned'</script> " + "x" * 5_000
        self.place(("4711", ""), ("4712", "refuse"), ("4713", poison), *((key, "") for key in HOSTILE))
        serve = self.serve()
        self.until(lambda: len(self.listed("waiting-for-person=1")) >= 1 + len(HOSTILE) and self.listed("key=4713"))
        self.until(lambda: self.listed("state=COMPENSATED"))
        assert serve.code is None

    def serve(self) -> Program:
        """Serve the web view."""
        serve = self._run("serve", "--port", self.port, name="serve")
        serve.until("serving")
        self.until(self._answers)
        return serve

    def stop(self) -> None:
        """End everything."""
        for program in reversed(self.programs):
            if program.code is None:
                program.kill()

    def place(self, *orders: tuple[str, str]) -> None:
        """Publish orders: key and note."""
        _in_a_thread(self._place(orders))

    def listed(self, query: str = "") -> list[dict[str, Any]]:
        """Ask for a list as JSON."""
        answer = httpx.get(f"{self.url}/sagas.json?limit=500&{query}", headers=bearer("viewer"), timeout=60)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found

    def saga(self, *arguments: object) -> Any:
        """Run a command of `saga` to its end; give its JSON."""
        done = saga(*arguments, env=self.env, cwd=self.folder)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def until(self, holds: Callable[[], object], seconds: float = 60) -> None:
        """Wait until something holds."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "\n".join(program.output[-2000:] for program in self.programs)
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=60).is_success
        except httpx.TransportError:
            return False

    def _run(self, *words: object, name: str) -> Program:
        made = Program(("saga", *words), env=self.env, folder=self.folder, name=name, cwd=self.folder)
        self.programs.append(made)
        made.start()
        return made

    async def _place(self, orders: Iterable[tuple[str, str]]) -> None:
        settings = load_settings(home=self.home)
        async with (
            connect(settings.broker_url, settings) as transport,
            Publisher(transport, source="web-shop", settings=settings) as publisher,
        ):
            for key, note in orders:
                await publisher.publish(OrderPlaced(order_id=key, note=note))


def bearer(role: str) -> dict[str, str]:
    """Give the header that says who asks."""
    return {"authorization": f"Bearer {TOKENS[role]}"}


def artefacts() -> Path:
    """Give the folder of screenshots: `build/screenshots` in the checkout, which git ignores."""
    folder = Path(os.environ.get("CHOREO_SCREENSHOTS") or Path(__file__).parent.parent.parent / "build" / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _in_a_thread(work: Any) -> None:
    """Run a coroutine where no loop runs: Playwright has one in the test's thread."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
