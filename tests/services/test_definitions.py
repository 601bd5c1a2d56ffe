"""A declaration that cannot work is refused where it is written, with the handler, the parameter and the remedy."""

from __future__ import annotations

import pytest
from sqlalchemy import MetaData

from choreo.events.errors import DefinitionError
from choreo.events.event import Event
from choreo.services.context import Context, Transaction
from choreo.services.service import Service
from tests.services.shop import (
    Charge,
    Charged,
    OrderChanged,
    OrderPlaced,
    Refund,
    Refunded,
    ReleaseStock,
    StockRefused,
    StockReleased,
    StockReserved,
)


async def test_a_handler_stays_a_plain_function():
    service = Service("inventory")

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> StockReserved:
        return StockReserved(order_id=order.order_id)

    assert await reserve(OrderPlaced(order_id="1")) == StockReserved(order_id="1")


def test_what_a_handler_takes_and_gives_is_read_from_its_signature():
    service = Service("inventory")

    @service.on(OrderPlaced, OrderChanged, name="book")
    async def reserve(
        context: Context, order: OrderPlaced | OrderChanged, tx: Transaction
    ) -> StockReserved | StockRefused | None: ...

    @service.on(OrderPlaced)
    async def many(order: OrderPlaced) -> list[StockReserved | StockRefused]: ...

    @service.on(OrderPlaced)
    async def pair(order: OrderPlaced) -> tuple[StockReserved, StockRefused]: ...

    @service.on(OrderPlaced)
    async def silent(order: Event) -> None: ...

    book, many_, pair_, silent_ = service.handlers
    signature = book.signature
    assert (book.name, signature.event, signature.context, signature.tx) == ("book", "order", "context", "tx")
    assert signature.produces == (StockReserved, StockRefused) == many_.signature.produces == pair_.signature.produces
    assert signature.silent and silent_.signature.silent
    assert silent_.signature.produces == ()


def test_event_classes_of_the_place_of_definition_are_found():
    class Local(Event, topic="here", key="id"):
        id: str

    service = Service("inventory")

    @service.on(Local)
    async def handle(event: Local) -> None: ...

    assert service.handlers[0].signature.event == "event"


def _declare(function, *events, **options):
    return Service("inventory", **options.pop("service", {})).on(*events, **options)(function)


async def _no_event(context: Context) -> None: ...
async def _odd(order: OrderPlaced, clock: int) -> None: ...
async def _two(order: OrderPlaced, other: OrderPlaced) -> None: ...
async def _no_return(order: OrderPlaced): ...
async def _wrong_return(order: OrderPlaced) -> int: ...
async def _abstract(order: OrderPlaced) -> Event: ...
async def _narrow(order: OrderPlaced) -> None: ...
async def _unknown(order: OrderPlaced) -> Nowhere: ...  # noqa: F821
async def _positional(order: OrderPlaced, /) -> None: ...
async def _with_tx(order: OrderPlaced, tx: Transaction) -> None: ...
def _plain(order: OrderPlaced) -> None: ...
def _plain_tx(order: OrderPlaced, tx: Transaction) -> None: ...
def _yields(order: OrderPlaced) -> list[StockReserved]:
    yield StockReserved(order_id=order.order_id)


@pytest.mark.parametrize(
    ("function", "events", "options", "says"),
    [
        (_no_event, [OrderPlaced], {}, "no parameter takes the event; annotate one with `OrderPlaced`"),
        (_odd, [OrderPlaced], {}, "parameter 'clock' cannot be filled"),
        (_two, [OrderPlaced], {}, "parameter 'other' cannot be filled"),
        (_no_return, [OrderPlaced], {}, "say what it publishes"),
        (_wrong_return, [OrderPlaced], {}, "returns int, which is no event"),
        (_abstract, [OrderPlaced], {}, "Event has no topic"),
        (_narrow, [OrderPlaced, OrderChanged], {}, "make the annotation `OrderPlaced | OrderChanged`"),
        (_unknown, [OrderPlaced], {}, "'Nowhere' of 'return' cannot be resolved"),
        (_positional, [OrderPlaced], {}, "positional only"),
        (_plain_tx, [OrderPlaced], {}, "whose statements are awaited; write `async def _plain_tx`"),
        (_yields, [OrderPlaced], {}, "write `return [...]` in place of `yield`"),
        (_narrow, [OrderPlaced], {"timeout": "soon"}, "timeout='soon': 'soon' is not a positive duration"),
        (_narrow, [OrderPlaced], {"concurrency": 0}, "concurrency=0; give a whole number of at least 1"),
        (_with_tx, [OrderPlaced], {"concurrency": 3}, "run one after another anyway; leave it out"),
        (_narrow, [OrderPlaced], {"rate": "fast"}, 'write it like "50/s", "600/m" or "1000/h"'),
        (_narrow, [OrderPlaced], {"rate": "0/s"}, "write it like"),
        (_narrow, [OrderPlaced], {"breaker": 3}, "write breaker=Breaker("),
        (_narrow, [], {}, "`on` takes event classes"),
        (_narrow, [int], {}, "`on` takes event classes"),
        (_narrow, [OrderPlaced], {"exhausted": "later"}, 'write "dead" or "park"'),
        (_narrow, [OrderPlaced], {"name": "a b"}, "give the handler a name"),
        (_narrow, [OrderPlaced], {"undoes": _plain}, "is no handler of 'inventory'"),
        (_narrow, [OrderPlaced], {"empty": lambda command: None}, "say what it undoes"),
        (_with_tx, [OrderPlaced], {"service": {"store": None}}, "a Transaction needs a store"),
        (_narrow, [OrderPlaced], {"service": {"store": None}, "exhausted": "park"}, "keeps events in the store"),
    ],
)
def test_a_wrong_handler_is_refused_with_the_remedy(function, events, options, says):
    with pytest.raises(DefinitionError) as found:
        _declare(function, *events, **options)
    assert says in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "no spaces"}, "a name is up to 100 letters"),
        ({"name": "x", "store": "mysql://x"}, "is not a store"),
        ({"name": "x", "store": None, "tables": MetaData()}, "tables= needs a store"),
        ({"name": "x", "concurrency": 0}, "at least one handler"),
        ({"name": "x", "drain": "soon"}, "not a positive duration"),
        ({"name": "x", "drain": "5m"}, "a rebalance waits for 50s at most"),
    ],
)
def test_a_wrong_service_is_refused(options, says):
    with pytest.raises(DefinitionError, match=says):
        Service(**options)


def test_two_handlers_of_one_name_are_refused():
    service = Service("inventory")
    service.on(OrderPlaced)(_narrow)
    with pytest.raises(DefinitionError, match="already"):
        service.on(OrderChanged)(_narrow)


def test_ruling_4_undoes_without_a_store_is_refused_at_definition():
    """Ruling R4."""
    service = Service("inventory", store=None)

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> StockReserved: ...

    with pytest.raises(DefinitionError, match="undoes= needs a store"):

        @service.on(ReleaseStock, undoes=reserve)
        async def release(command: ReleaseStock) -> StockReleased: ...


def test_an_undo_cannot_be_undone():
    service = Service("inventory")

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> StockReserved: ...

    @service.on(ReleaseStock, undoes=reserve)
    async def release(command: ReleaseStock) -> StockReleased: ...

    with pytest.raises(DefinitionError, match="is an undo itself"):

        @service.on(Refund, undoes=release)
        async def again(command: Refund) -> Refunded: ...


class Itemized(Event, topic="inventory", key="order_id"):
    order_id: str
    items: int
    note: str = ""


def test_the_answer_of_an_empty_undo_must_be_fillable_from_the_command():
    service = Service("inventory")

    @service.on(OrderPlaced)
    async def reserve(order: OrderPlaced) -> StockReserved: ...

    with pytest.raises(DefinitionError, match="'items' cannot be: it is not there; add the field"):

        @service.on(ReleaseStock, undoes=reserve)
        async def release(command: ReleaseStock) -> Itemized: ...

    with pytest.raises(DefinitionError, match="which of StockReleased, StockRefused answers"):

        @service.on(ReleaseStock, undoes=reserve)
        async def either(command: ReleaseStock) -> StockReleased | StockRefused: ...

    @service.on(ReleaseStock, undoes=reserve, empty=lambda command: Itemized(order_id=command.order_id, items=0))
    async def told(command: ReleaseStock) -> Itemized: ...

    handler = service.handlers[-1]
    assert handler.empty is not None
    assert handler.empty(ReleaseStock(order_id="7")) == Itemized(order_id="7", items=0)


def test_a_service_announces_what_it_takes_gives_undoes_and_claims():
    service = Service("payment")

    @service.on(Charge)
    async def charge(command: Charge) -> Charged: ...

    @service.on(Refund, undoes=charge)
    async def refund(command: Refund, tx: Transaction) -> Refunded: ...

    told = service.announcement()
    forward, undo = told.handlers
    assert (told.service, told.group) == ("payment", "payment")
    assert [(each.type, each.topic) for each in forward.consumes] == [("Charge", "payment.commands")]
    assert [(each.type, each.topic) for each in undo.produces] == [("Refunded", "payments")]
    assert (forward.undoes, forward.claims, undo.undoes, undo.claims) == (None, True, "charge", False)


def test_a_service_knows_the_topics_that_it_needs():
    service = Service("payment")

    @service.on(Charge)
    async def charge(command: Charge) -> Charged: ...

    assert [topic.name for topic in service.topics()] == [
        "choreo.failures",
        "payment.commands",
        "payment.commands.dlq",
        "payments",
    ]
