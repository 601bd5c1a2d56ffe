"""What handlers ask for by annotation: dependencies of a call, settings, and what lives as long as the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import pytest
import structlog
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import Column, MetaData, String, Table

from choreo.events.errors import ConfigurationError, DefinitionError
from choreo.events.event import Event
from choreo.events.settings import Settings
from choreo.services.context import Context, Transaction
from choreo.services.dependencies import Depends
from choreo.services.retry import Retry
from choreo.services.service import Service
from tests.services.shop import OrderChanged, OrderPlaced, Rig, StockReserved, until

told: list[str] = []
tables = MetaData()
shelf = Table("shelf", tables, Column("order_id", String, primary_key=True))


class Bank:
    def __init__(self, url: str = "bank") -> None:
        self.url = url


@dataclass
class Session:
    bank: Bank
    number: int = 0


class BankSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="BANK_")
    url: str
    api_key: SecretStr
    limit: int = 10


class Numbers(Protocol):
    def next(self) -> int: ...


@pytest.fixture(autouse=True)
def _forget() -> None:
    told.clear()


async def open_session(context: Context) -> AsyncIterator[Session]:
    told.append(f"open {context.attempt}")
    try:
        yield Session(Bank())
    except ValueError as error:
        told.append(f"failed {error}")
        raise
    finally:
        told.append("close")


def user(session: Annotated[Session, Depends(open_session)]) -> str:
    return f"user of {session.bank.url}"


async def count(session: Annotated[Session, Depends(open_session)], order: OrderPlaced) -> int:
    return order.number


def opened() -> Iterator[str]:
    told.append("open plain")
    yield "plain"
    told.append("close plain")


# ---- dependencies of a call ------------------------------------------------------------------------------------------


async def test_a_dependency_is_opened_for_each_call_once_and_closed_after_the_handler(rig: Rig):
    service = Service("inventory", store=None)

    @service.on(OrderPlaced)
    async def reserve(
        order: OrderPlaced,
        session: Annotated[Session, Depends(open_session)],
        who: Annotated[str, Depends(user)],
        number: Annotated[int, Depends(count)],
        plain: Annotated[str, Depends(opened)],
    ) -> StockReserved:
        told.append(f"handle {who} {number} {plain} {session.number}")
        session.number += 1
        return StockReserved(order_id=order.order_id)

    await rig.publish(OrderPlaced(order_id="1", number=7))
    await rig.run(service)
    assert told == ["open 1", "open plain", "handle user of bank 7 plain 0", "close plain", "close"]
    assert await reserve(OrderPlaced(order_id="1"), Session(Bank()), "me", 1, "p") == StockReserved(order_id="1")


async def test_a_dependency_sees_the_error_of_its_handler_and_cannot_swallow_it(rig: Rig):
    service = Service("inventory", store=None)

    async def swallows() -> AsyncIterator[int]:
        try:
            yield 1
        except ValueError:
            told.append("swallowed")

    @service.on(OrderPlaced, retry=Retry(attempts=2, first="1ms"))
    async def reserve(
        order: OrderPlaced, session: Annotated[Session, Depends(open_session)], n: Annotated[int, Depends(swallows)]
    ) -> None:
        raise ValueError("no stock")

    await rig.publish(OrderPlaced(order_id="1"))
    worker = await rig.run(service)
    once = ["swallowed", "failed no stock", "close"]
    assert told == ["open 1", *once, "open 2", *once]
    assert worker.counters.dead == 1


async def test_what_a_dependency_raises_counts_as_the_handlers(rig: Rig):
    service = Service("inventory", store=None)

    async def broken() -> int:
        raise RuntimeError("no connection")

    async def breaks_at_the_end() -> AsyncIterator[int]:
        yield 1
        raise RuntimeError("not flushed")

    @service.on(OrderPlaced, retry=Retry(attempts=1))
    async def first(order: OrderPlaced, n: Annotated[int, Depends(broken)]) -> None:
        told.append("never")

    @service.on(OrderPlaced, retry=Retry(attempts=1))
    async def second(order: OrderPlaced, n: Annotated[int, Depends(breaks_at_the_end)]) -> StockReserved:
        return StockReserved(order_id="1")

    await rig.publish(OrderPlaced(order_id="1"))
    await rig.run(service)
    letters = await rig.deliveries("orders.dlq")
    reasons = sorted(dict(letter.headers)["dlq-message"].decode() for letter in letters)
    assert reasons == ["no connection", "not flushed"]
    assert told == []
    assert await rig.published("inventory") == []


async def test_a_dependency_may_write_in_the_handlers_transaction(rig: Rig, store: str):
    service = Service("inventory", store=store, tables=tables)

    class Shelf:
        def __init__(self, tx: Transaction) -> None:
            self.tx = tx

        async def put(self, order_id: str) -> None:
            await self.tx.execute(shelf.insert().values(order_id=order_id))

    @service.on(OrderPlaced, retry=Retry(attempts=2, first="1ms"))
    async def reserve(order: OrderPlaced, shelf: Annotated[Shelf, Depends(Shelf)], context: Context) -> StockReserved:
        await shelf.put(order.order_id)
        if context.attempt == 1:
            raise ValueError("the first time")
        return StockReserved(order_id=order.order_id)

    assert service.handlers[0].signature.transactional
    await rig.publish(OrderPlaced(order_id="1"))
    worker = await rig.run(service)
    assert (worker.counters.handled, worker.counters.retries) == (1, 1)
    assert len(await rig.published("inventory")) == 1


# ---- settings --------------------------------------------------------------------------------------------------------


async def test_settings_are_made_once_at_the_start(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    service = Service("payment", store=None)

    @service.on(OrderPlaced)
    async def charge(order: OrderPlaced, settings: BankSettings, ours: Settings) -> None:
        told.append(f"{settings.url} {id(settings)} {ours.home == rig.settings.home}")

    monkeypatch.setenv("BANK_URL", "https://bank")
    monkeypatch.setenv("BANK_API_KEY", "secret")
    await rig.publish(OrderPlaced(order_id="1"), OrderPlaced(order_id="2"))
    async with rig.running(service):
        monkeypatch.setenv("BANK_URL", "https://elsewhere")
    assert len(set(told)) == 1
    assert told[0].startswith("https://bank ") and told[0].endswith("True")


def test_missing_and_wrong_settings_are_one_line_without_values(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    service = Service("payment", store=None)

    @service.on(OrderPlaced)
    async def charge(order: OrderPlaced, settings: BankSettings) -> None: ...

    monkeypatch.setenv("BANK_LIMIT", "swordfish")
    with pytest.raises(ConfigurationError) as found:
        rig.worker(service)
    assert found.value.message == (
        "service payment needs the settings of BankSettings: BANK_URL is missing; BANK_API_KEY is missing; "
        "BANK_LIMIT is wrong: Input should be a valid integer, unable to parse string as an integer"
    )


# ---- lifespans -------------------------------------------------------------------------------------------------------


def _with_bank(store: str | None = None) -> Service:
    service = Service("payment", store=store)

    @service.lifespan
    async def bank(settings: BankSettings) -> AsyncIterator[Bank]:
        told.append("open bank")
        async with asyncio.TaskGroup():  # must be left in the task that entered it
            yield Bank(settings.url)
        told.append("close bank")

    @service.lifespan
    @asynccontextmanager
    async def session(bank: Bank) -> AsyncIterator[Session]:
        told.append("open session")
        try:
            yield Session(bank)
        finally:
            told.append("close session")

    @service.lifespan
    async def quiet() -> AsyncIterator[None]:
        yield

    @service.on(OrderPlaced)
    async def charge(order: OrderPlaced, bank: Bank, session: Session) -> StockReserved:
        told.append(f"charge {bank.url} {bank is session.bank}")
        return StockReserved(order_id=order.order_id)

    return service


async def test_what_a_lifespan_yields_is_given_to_handlers_from_start_to_stop(
    rig: Rig, store: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BANK_URL", "https://bank")
    monkeypatch.setenv("BANK_API_KEY", "secret")
    await rig.publish(OrderPlaced(order_id="1"), OrderPlaced(order_id="2"))
    worker = rig.worker(_with_bank(store))
    await asyncio.gather(worker.start())  # in a task of its own, as a process with several services does
    await until(lambda: worker.counters.handled >= 2)
    await asyncio.gather(worker.stop())
    begun, ended = ["open bank", "open session"], ["close session", "close bank"]
    assert told == [*begun, *["charge https://bank True"] * 2, *ended]


async def test_a_lifespan_that_fails_at_the_start_is_one_line_and_the_others_are_closed(rig: Rig):
    service = Service("payment", store=None)

    @service.lifespan
    async def bank() -> AsyncIterator[Bank]:
        yield Bank()
        told.append("closed")

    @service.lifespan
    async def broken(bank: Bank) -> AsyncIterator[Session]:
        raise ConnectionRefusedError("nobody listens\nat all")
        yield Session(bank)

    with pytest.raises(ConfigurationError) as found:
        await rig.worker(service).start()
    assert found.value.message == (
        "service payment cannot start: its lifespan 'broken' failed: ConnectionRefusedError: nobody listens"
    )
    assert isinstance(found.value.__cause__, ConnectionRefusedError)
    assert (await rig.broker.group("payment")).members == ()


async def test_a_lifespan_that_ends_before_its_service_ends_the_service(rig: Rig):
    service = Service("payment", store=None)
    fail = asyncio.Event()

    async def refresh() -> None:
        await fail.wait()
        raise ValueError("no more tokens")

    @service.lifespan
    async def tokens() -> AsyncIterator[Bank]:
        async with asyncio.TaskGroup() as group:
            group.create_task(refresh())
            yield Bank()

    @service.on(OrderPlaced)
    async def charge(order: OrderPlaced, bank: Bank) -> None: ...

    with structlog.testing.capture_logs() as logs:
        async with rig.worker(service) as worker:
            fail.set()
            with pytest.raises(ExceptionGroup):
                await worker.wait()
    assert "service cannot go on" in [entry["event"] for entry in logs]


async def test_what_goes_wrong_when_a_lifespan_ends_is_told_and_ends_nothing_else(rig: Rig):
    service = Service("payment", store=None, drain="100ms")

    @service.lifespan
    async def fails() -> AsyncIterator[Bank]:
        yield Bank()
        raise ValueError("flush failed")

    @service.lifespan
    async def hangs() -> AsyncIterator[Session]:
        yield Session(Bank())
        if not told:
            await asyncio.sleep(3600)

    with structlog.testing.capture_logs() as logs:
        async with rig.worker(service):
            pass
        told.append("second")
        async with rig.worker(service):
            pass
    events = [(entry["event"], entry.get("error")) for entry in logs if entry["log_level"] == "error"]
    assert events == [
        ("lifespans do not end; the stop goes on without them", None),
        ("a lifespan failed", "ValueError: flush failed"),
    ]


async def test_a_protocol_may_be_what_a_lifespan_yields(rig: Rig):
    service = Service("payment", store=None)

    class Counted:
        def next(self) -> int:
            return 7

    @service.lifespan
    async def numbers() -> AsyncIterator[Numbers]:
        yield Counted()

    @service.on(OrderPlaced)
    async def charge(order: OrderPlaced, numbers: Numbers) -> None:
        told.append(str(numbers.next()))

    await rig.publish(OrderPlaced(order_id="1"))
    await rig.run(service)
    assert told == ["7"]


# ---- overrides -------------------------------------------------------------------------------------------------------


async def test_overrides_stand_in_for_values_by_class_and_for_functions_by_function(rig: Rig):
    service = _with_bank()

    @service.on(OrderChanged)
    async def change(
        order: OrderChanged,
        session: Annotated[Session, Depends(open_session)],
        who: Annotated[str, Depends(user)],
        settings: BankSettings,
    ) -> None:
        told.append(f"{session} {who} {settings.url}")

    async def fake(order: OrderChanged, bank: Bank) -> AsyncIterator[Any]:
        told.append(f"fake {order.order_id}")
        yield Session(bank, 5)

    settings = BankSettings(url="test", api_key=SecretStr(""))
    overrides = {Bank: Bank("fake"), open_session: fake, BankSettings: settings}
    await rig.publish(OrderChanged(order_id="1"))
    await rig.run(service, overrides=overrides)
    assert "open bank" not in told
    assert told[:2] == ["open session", "fake 1"]
    assert told[2].endswith("number=5) user of fake test")


async def test_a_lifespan_is_overridden_by_another_one(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BANK_URL", "https://bank")
    monkeypatch.setenv("BANK_API_KEY", "secret")
    service = _with_bank()
    real = service.lifespans[0].function

    async def fake(settings: BankSettings) -> AsyncIterator[Bank]:
        yield Bank("fake")
        told.append("close fake")

    await rig.publish(OrderPlaced(order_id="1"))
    await rig.run(service, overrides={real: fake})
    assert told == ["open session", "charge fake True", "close session", "close fake"]


async def test_a_stand_in_may_stand_around_the_real_one_and_a_class_is_replaced_by_a_value(rig: Rig):
    service = Service("payment", store=None)

    class Ledger:
        def __init__(self, order: OrderPlaced) -> None:
            self.name = f"real {order.order_id}"

    @service.on(OrderPlaced)
    async def charge(
        order: OrderPlaced, ledger: Annotated[Ledger, Depends(Ledger)], number: Annotated[int, Depends(count)]
    ) -> None:
        told.append(f"{ledger.name} {number}")

    async def doubled(real: Annotated[int, Depends(count)]) -> int:
        return real * 2

    await rig.publish(OrderPlaced(order_id="1", number=4))
    await rig.run(service)
    fake = Ledger(OrderPlaced(order_id="fake"))
    fake.name = "fake"
    await rig.publish(OrderPlaced(order_id="2", number=4))
    await rig.run(service, overrides={Ledger: fake, count: doubled})
    assert [each for each in told if each[:4] in ("real", "fake")] == ["real 1 4", "fake 8"]


def test_a_stand_in_may_not_write_where_its_handler_does_not(rig: Rig):
    service = Service("payment")

    @service.on(OrderPlaced)
    async def charge(order: OrderPlaced, number: Annotated[int, Depends(count)]) -> None: ...

    def writes(tx: Transaction) -> int:
        return 1

    with pytest.raises(ConfigurationError, match=r"payment.charge takes no Transaction"):
        rig.worker(service, overrides={count: writes})


def test_an_override_that_nobody_asks_for_is_refused(rig: Rig):
    service = _with_bank()
    settings = BankSettings(url="test", api_key=SecretStr(""))
    with pytest.raises(ConfigurationError, match="no handler here asks for Numbers; name the class"):
        rig.worker(service, overrides={BankSettings: settings, Numbers: 1})
    with pytest.raises(ConfigurationError, match="only another function can stand in"):
        rig.worker(service, overrides={BankSettings: settings, service.lifespans[0].function: Bank()})


# ---- errors of use ---------------------------------------------------------------------------------------------------


def _a(b: Annotated[int, Depends(lambda: 0)]) -> int:
    return b


def _first(x: Annotated[int, Depends(_a)]) -> int:
    return x


def _cycle_one(x: Annotated[int, Depends(_cycle_two)]) -> int:
    return x


def _cycle_two(x: Annotated[int, Depends(_cycle_one)]) -> int:
    return x


def _asks_too_much(x: float) -> int:
    return 1


async def _twice() -> AsyncIterator[int]:
    yield 1
    yield 2


def _of_another_event(order: OrderChanged) -> int:
    return 1


def _names_nothing(order: Nowhere) -> int:  # noqa: F821
    return 1


async def _odd(order: OrderPlaced, clock: Numbers) -> None: ...
async def _bare(order: OrderPlaced, clock) -> None: ...
async def _unmarked(order: OrderPlaced, n: Annotated[int, _a]) -> None: ...
async def _uncalled(order: OrderPlaced, n: Annotated[int, Depends]) -> None: ...
async def _default(order: OrderPlaced, n: int = Depends(_a)) -> None: ...
async def _both(order: OrderPlaced, n: Annotated[int, Depends(_a), Depends(_first)]) -> None: ...
async def _cycle(order: OrderPlaced, n: Annotated[int, Depends(_cycle_one)]) -> None: ...
async def _deep(order: OrderPlaced, n: Annotated[int, Depends(_asks_too_much)]) -> None: ...
async def _yields(order: OrderPlaced, n: Annotated[int, Depends(_twice)]) -> None: ...
async def _event(order: OrderPlaced, n: Annotated[int, Depends(_of_another_event)]) -> None: ...
async def _hint(order: OrderPlaced, n: Annotated[int, Depends(_names_nothing)]) -> None: ...
async def _type(order: OrderPlaced, n: Annotated[str, Depends(_a)]) -> None: ...
async def _generated(order: OrderPlaced, n: Annotated[Bank, Depends(open_session)]) -> None: ...


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (_odd, "parameter 'clock' cannot be filled; it can be `Context`, `Transaction` and events, a BaseSettings"),
        (_odd, "a @inventory.lifespan above yields (now Bank), or `Annotated[Numbers, Depends(function)]`"),
        (_bare, "parameter 'clock' cannot be filled"),
        (_unmarked, "parameter 'n': write `Annotated[int, Depends(_a)]`"),
        (_uncalled, "parameter 'n': write `Annotated[int, Depends(open_session)]`"),
        (_default, "a dependency stands in the annotation; write `n: Annotated[int, Depends(_a)]`"),
        (_both, "parameter 'n' has 2 Depends; leave one"),
        (_cycle, "_cycle_one -> _cycle_two -> _cycle_one is a cycle of dependencies"),
        (_deep, "inventory._deep: Depends(_asks_too_much): parameter 'x' cannot be filled"),
        (_yields, "Depends(_twice): it may yield 2 times in one run; write one `yield`"),
        (
            _event,
            "Depends(_of_another_event): parameter 'order' takes OrderChanged, but it is declared for OrderPlaced",
        ),
        (_hint, "Depends(_names_nothing): the annotation 'Nowhere' of 'order' cannot be resolved"),
        (_type, "parameter 'n' is a str, but _a gives int; change the one or the other"),
        (_generated, "parameter 'n' is a Bank, but open_session gives Session"),
    ],
)
def test_a_dependency_that_cannot_work_is_refused_where_its_handler_is_defined(function, says):
    service = Service("inventory")

    @service.lifespan
    async def bank() -> AsyncIterator[Bank]:
        yield Bank()

    with pytest.raises(DefinitionError) as found:
        service.on(OrderPlaced)(function)
    assert says in found.value.message
    assert "\n" not in found.value.message


def test_depends_names_a_function():
    with pytest.raises(DefinitionError, match="and do not call it"):
        Depends(_a(1))


async def _no_generator() -> Bank:
    return Bank()


async def _no_annotation():
    yield Bank()


async def _an_event() -> AsyncIterator[OrderPlaced]:
    yield OrderPlaced(order_id="1")


async def _needs_more(order: OrderPlaced) -> AsyncIterator[Bank]:
    yield Bank()


async def _needs_later(session: Session) -> AsyncIterator[Bank]:
    yield Bank()


async def _yields_twice() -> AsyncIterator[Bank]:
    yield Bank()
    yield Bank()


async def _another_session() -> AsyncIterator[Session]:
    yield Session(Bank())


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (_no_generator, "lifespan payment._no_generator: a lifespan is an async generator; write `async def"),
        (_no_annotation, "say what it yields"),
        (_an_event, "it yields OrderPlaced, which handlers are given by other means"),
        (_needs_more, "parameter 'order' cannot be filled; a lifespan takes settings"),
        (_needs_later, "parameter 'session' cannot be filled"),
        (_yields_twice, "it may yield 2 times in one run; write one `yield`"),
    ],
)
def test_a_lifespan_that_cannot_work_is_refused_where_it_is_defined(function, says):
    with pytest.raises(DefinitionError) as found:
        Service("payment").lifespan(function)
    assert says in found.value.message
    assert "\n" not in found.value.message


def test_two_lifespans_of_one_type_are_refused():
    service = Service("payment")
    service.lifespan(_another_session)
    with pytest.raises(DefinitionError, match=r"'_another_session' yields Session already.* a class of its own"):
        service.lifespan(_another_session)


def test_a_transaction_of_a_dependency_needs_a_store_too():
    def writes(tx: Transaction) -> int:
        return 1

    async def handle(order: OrderPlaced, n: Annotated[int, Depends(writes)]) -> None: ...

    with pytest.raises(DefinitionError, match="of a dependency: a Transaction needs a store"):
        Service("payment", store=None).on(OrderPlaced)(handle)


def test_an_event_of_a_dependency_may_be_wider_than_the_handlers():
    def key(event: Event) -> str:
        return event.key_text()

    service = Service("payment")

    @service.on(OrderPlaced)
    async def handle(order: OrderPlaced, key: Annotated[str, Depends(key)]) -> None: ...

    assert list(service.handlers[0].signature.injected) == ["key"]
