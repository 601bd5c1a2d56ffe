"""What the tests of stuck sagas share: a shop, and a person at a desk who types commands."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from choreo import Event, Publisher, Retry, Saga, Service, step
from choreo.events.settings import Settings
from choreo.events.transports import connect
from choreo.saga.cli import exits
from choreo.saga.loading import Parts
from choreo.saga.running import Process
from tests.support.console import Console, validate

QUICK = Retry(attempts=1)
_PATIENCE = 60.0


class Ordered(Event, topic="orders", key="order_id"):
    order_id: str


class Reserved(Event, topic="stock", key="order_id"):
    order_id: str


class Unreserve(Event, topic="stock.commands", key="order_id"):
    order_id: str


class Unreserved(Event, topic="stock", key="order_id"):
    order_id: str


class Ship(Event, topic="shipping.commands", key="order_id"):
    order_id: str


class Shipped(Event, topic="shipping", key="order_id"):
    order_id: str


class NotShipped(Event, topic="shipping", key="order_id"):
    order_id: str


class Delivery(Saga, start=Ordered, key="order_id", active_from="beginning"):
    """Reserve by itself, ship on command."""

    reserve = step(done=Reserved, undo=Unreserve, undone=Unreserved, within="10m")
    ship = step(
        after=reserve,
        send=Ship,
        done=Shipped,
        failed=NotShipped,
        pivot=True,
        within="1h",
        retry=Retry(attempts=3, first="10m", most="10m"),
    )


class Told(NamedTuple):
    """What `saga why` said: the cause, what to do, and what would come by itself."""

    cause: str
    remedies: list[str]
    prospects: list[str]


class Desk:
    """What a test has at hand: it starts services, publishes, and asks `saga why` as a person would."""

    def __init__(self, settings: Settings, console: Console, stack: AsyncExitStack) -> None:
        self.settings = settings
        self.console = console
        self._stack = stack

    async def two_commands(
        self, name: str, code: str, *filters: str, step: str | None = None, first: bool = True
    ) -> Told:
        """Do as somebody who sees this for the first time: `saga list`, and `saga why` on what it shows.

        Args:
            name: the saga that is stuck.
            code: what is waited for among the reasons, as others know of things a little later.
            filters: of `saga list`; default: the open ones.
            step: which of several reasons.
            first: it stands first; not where a coordinator is down as well.
        """
        told = await self.why(name, code, step)
        listed = await self.type("saga list", *(filters or ["--open"]))
        assert name in listed, "the first command shows the saga"
        text = " ".join((await self.type("saga why", name)).split())
        reason = next(each for each in told["reasons"] if each["code"] == code and step in (None, each["step"]))
        cause = str(reason["sentence"])
        assert not first or told["reasons"][0]["code"] == code, "the cause stands first"
        prospects = [str(each["sentence"]) for each in told["prospects"]]
        assert _timeless(cause) in _timeless(text)
        assert all(" ".join(remedy.split()) in text for remedy in reason["remedies"])
        return Told(cause, reason["remedies"], prospects)

    async def type(self, command: str, *more: str) -> str:
        """Type a command as it stands, with a reason where one is asked for; give what it printed."""
        words = [word if word != "..." else "tested" for word in command.split()]
        assert words[0] == "saga"
        done = await asyncio.to_thread(self.console, *words[1:], *more)
        assert done.code == 0, done.err
        return done.out

    async def ends(self, name: str, phase: str) -> None:
        """Wait until a saga has ended so."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE
        while True:
            done = await asyncio.to_thread(self.console, "wait", name, "--timeout", "60", "-o", "json")
            # It may wait for a person until what that person has just done arrives.
            if done.json["phase"] == phase or done.code != exits.FAILED or loop.time() > until:
                break
            await asyncio.sleep(0.2)
        assert done.json["phase"] == phase, done

    async def run(self, *services: Service, sagas: Sequence[type[Saga]] = ()) -> Process:
        """Run services and sagas until the test ends."""
        transport = await self._stack.enter_async_context(connect(self.settings.broker_url, self.settings))
        parts = Parts(services=services, sagas=tuple(sagas))
        return await self._stack.enter_async_context(
            Process(parts, transport, self.settings, create_topics=True, partitions=1)
        )

    async def publish(self, *events: Event) -> None:
        """Publish events as an existing system would."""
        async with (
            connect(self.settings.broker_url, self.settings) as transport,
            Publisher(transport, source="shop", settings=self.settings) as publisher,
        ):
            await publisher.publish(*events)

    async def why(self, name: str, code: str, step: str | None = None) -> dict[str, Any]:
        """Ask until that is among the reasons; give the whole answer."""
        told: dict[str, Any] = {}
        for _ in range(600):
            done = await asyncio.to_thread(self.console, "why", name, "-o", "json")
            if done.code == 0:
                told = validate(done.json, "saga.why/v1")
                if any(each["code"] == code and step in (None, each["step"]) for each in told["reasons"]):
                    return told
            await asyncio.sleep(0.1)
        raise AssertionError(f"{code} is not among the reasons: {told or done}")


def stock(reserve: Callable[[Ordered], Awaitable[Reserved]] | None = None, *, park: bool = False) -> Service:
    """The service that reserves; it does as it is told."""
    service = Service("stock")

    @service.on(Ordered, retry=QUICK, exhausted="park" if park else "dead")
    async def reserve_(order: Ordered) -> Reserved:
        return Reserved(order_id=order.order_id) if reserve is None else await reserve(order)

    @service.on(Unreserve)
    async def unreserve(command: Unreserve) -> Unreserved:
        return Unreserved(order_id=command.order_id)

    return service


def shipping(answer: Callable[[Ship], Event]) -> Service:
    """The service that ships, or refuses, or breaks."""
    service = Service("shipping")

    @service.on(Ship, retry=QUICK)
    async def ship(command: Ship) -> Shipped | NotShipped:
        return answer(command)  # type: ignore[return-value]

    return service


def _timeless(text: str) -> str:
    """Leave out how long things took: that has changed when they are asked for again."""
    return re.sub(r"\d+(\.\d+)?(ms|s|m|h|d)( \d\d[smh])?", "...", text)
