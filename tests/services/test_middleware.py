"""Middleware stands around each call of each handler, the first one outermost; an exception counts as the handler's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated

import pytest

from choreo.events.errors import DefinitionError, Permanent
from choreo.services.context import Transaction
from choreo.services.dependencies import Depends
from choreo.services.middleware import Answer, Call, Next
from choreo.services.retry import Retry
from choreo.services.service import Service
from tests.services.shop import OrderPlaced, Rig, StockRefused, StockReserved

told: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    told.clear()


async def outer(call: Call, next: Next) -> Answer:
    told.append(f"outer {call.service}.{call.handler} {call.context.attempt} {call.tx is not None}")
    try:
        answer = await next(call)
    except ValueError as error:
        told.append(f"outer saw {error}")
        raise
    told.append(f"outer got {type(answer).__name__}")
    return answer


class Doubling:
    async def __call__(self, call: Call, next: Next) -> Answer:
        assert isinstance(call.event, OrderPlaced)
        return await next(replace(call, event=call.event.model_copy(update={"number": call.event.number * 2})))


async def opened() -> AsyncIterator[int]:
    told.append("open")
    yield 1
    told.append("close")


async def test_middleware_stands_around_the_handler_with_its_dependencies_in_order(rig: Rig, store: str):
    service = Service("inventory", store=store, middleware=[outer])

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced, tx: Transaction, n: Annotated[int, Depends(opened)]) -> StockReserved:
        told.append(f"handle {order.number}")
        return StockReserved(order_id=order.order_id, number=order.number)

    service.middleware(Doubling())

    @service.middleware
    async def inner(call: Call, next: Next) -> Answer:
        told.append("inner")
        return await next(call)

    assert len(service.around) == 3
    await rig.publish(OrderPlaced(order_id="1", number=21))
    await rig.run(service)
    assert told == ["outer inventory.reserve 1 True", "inner", "open", "handle 42", "close", "outer got StockReserved"]
    assert [each.event["number"] for each in await rig.published("inventory")] == [42]


async def test_an_exception_of_middleware_counts_as_the_handlers(rig: Rig):
    service = Service("inventory", store=None, middleware=[outer])

    @service.middleware
    async def refuse(call: Call, next: Next) -> Answer:
        if call.context.attempt == 1:
            raise ValueError("not now")
        raise Permanent("never")

    @service.on(OrderPlaced, retry=Retry(attempts=5, first="1ms"))
    async def reserve(order: OrderPlaced) -> None:
        told.append("never")

    await rig.publish(OrderPlaced(order_id="1"))
    worker = await rig.run(service)
    assert told == ["outer inventory.reserve 1 False", "outer saw not now", "outer inventory.reserve 2 False"]
    assert (worker.counters.dead, worker.counters.retries) == (1, 1)


async def test_what_middleware_returns_is_held_to_the_handlers_annotation(rig: Rig):
    service = Service("inventory", store=None)

    @service.middleware
    async def instead(call: Call, next: Next) -> Answer:
        assert isinstance(call.event, OrderPlaced)
        if call.event.number:
            return StockRefused(order_id=call.event.order_id)
        return StockReserved(order_id=call.event.order_id)

    @service.on(OrderPlaced, retry=Retry(attempts=1))
    async def reserve(order: OrderPlaced) -> StockReserved:
        raise AssertionError("never called")

    await rig.publish(OrderPlaced(order_id="1"), OrderPlaced(order_id="2", number=1))
    worker = await rig.run(service)
    assert [each.type for each in await rig.published("inventory")] == ["StockReserved"]
    assert worker.counters.dead == 1


def _plain(call: Call, next: Next) -> None: ...
async def _one(call: Call) -> None: ...


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (_plain, "middleware '_plain' is no coroutine function; write `async def _plain(call: Call, next: Next)"),
        (_one, "middleware '_one' does not take a call and `next`"),
        ("auth", "middleware 'str' is no coroutine function"),
    ],
)
def test_what_is_no_middleware_is_refused(function, says):
    with pytest.raises(DefinitionError) as found:
        Service("inventory", middleware=[function])
    assert says in found.value.message
