"""What `explore` runs while a bug is in the code: the demo shop with its books, trips, tours that are called off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from random import Random

from sqlalchemy import select

from choreo import Context, Event, Retry, Saga, Service, Transaction, step
from choreo.events.clock import SECOND
from choreo.saga.demo import services
from choreo.saga.demo.books import Books, prove
from choreo.saga.demo.events import OrderPlaced
from choreo.saga.demo.saga import Fulfilment
from choreo.saga.demo.shop import SERVICES
from choreo.saga.demo.traffic import Mix, traffic
from choreo.saga.instance import Instance
from choreo.saga.operators import ask
from choreo.saga.tables import command, saga, sent
from choreo.saga.testing import Explorer, Run
from choreo.saga.words import StepState
from choreo.services.inbox import inbox


def orders(random: Random) -> list[Event]:
    """Two orders of the demo's traffic: most of them meet some trouble."""
    placed = list(traffic(Mix(orders=8, seed=random.randrange(1_000_000))))
    return [each.event for each in random.sample(placed, 2)]


def the_books_agree(run: Run) -> None:
    """What the demo's report proves: stock, money, parcels and receipts are those of the orders that were fulfilled."""
    with run._simulation.saga_disk.reader.connect() as connection:
        states = connection.execute(select(saga.c.key, saga.c.state)).all()
    books = Books(
        sagas={key: Instance.from_json(state) for key, state in states},
        orders=run.rows("order", services.orders),
        stock=run.rows("inventory", services.stock),
        reservations=run.rows("inventory", services.reservations),
        ledger=run.rows("payment", services.ledger),
        parcels=run.rows("shipping", services.parcels),
        letters=run.rows("notification", services.letters),
    )
    placed = [event for event in run.events if isinstance(event, OrderPlaced)]
    wrong = [f"{check.name}: {check.told}" for check in prove(books, placed) if not check.holds]
    assert not wrong, "; ".join(wrong)


def shop(faults: Collection[str] | None) -> Explorer:
    """The demo shop."""
    return Explorer(Fulfilment, SERVICES, events=orders, finally_=the_books_agree, faults=faults)


def nothing_is_seen_before_its_state(run: Run) -> None:
    """Rows 9 and 10: what is on the broker was committed before, by whoever sent it."""
    world = run._simulation
    with world.saga_disk.reader.connect() as connection:
        commands = set(connection.execute(select(sent.c.id)).scalars())
    causes: dict[str, set[str]] = {}
    for each in world.broker.log:
        source, id_ = each.header("ce_source"), each.header("ce_id")
        if source in world.services:
            if source not in causes:
                with world.disks[source].reader.connect() as connection:
                    causes[source] = set(connection.execute(select(inbox.c.event_id)).scalars())
            assert each.header("causation-id") in causes[source], f"{source} has sent {id_} before its commit"
        elif source.startswith("choreo/") and each.header("saga-step"):
            assert id_ in commands, f"{each.header('ce_type')} {id_} was sent before its commit"


def watched(faults: Collection[str] | None) -> Explorer:
    """The demo shop, looked at whenever something has changed."""
    return Explorer(Fulfilment, SERVICES, events=orders, always=nothing_is_seen_before_its_state, faults=faults)


class Wanted(Event, topic="trips", key="trip"):
    trip: str
    trouble: str = ""


class SeatHeld(Event, topic="seats", key="trip"):
    trip: str


class DropSeat(Event, topic="trips.commands", key="trip"):
    trip: str


class SeatDropped(Event, topic="seats", key="trip"):
    trip: str


class BookRoom(Event, topic="trips.commands", key="trip"):
    trip: str
    trouble: str


class RoomBooked(Event, topic="rooms", key="trip"):
    trip: str


class RoomRefused(Event, topic="rooms", key="trip"):
    trip: str


class DropRoom(Event, topic="trips.commands", key="trip"):
    trip: str


class RoomDropped(Event, topic="rooms", key="trip"):
    trip: str


class Pay(Event, topic="trips.commands", key="trip"):
    trip: str
    trouble: str


class Paid(Event, topic="payments", key="trip"):
    trip: str


class SendTicket(Event, topic="trips.commands", key="trip"):
    trip: str
    trouble: str


class TicketSent(Event, topic="mail", key="trip"):
    trip: str


class TicketBounced(Event, topic="mail", key="trip"):
    trip: str


QUICK = Retry(attempts=2, first="1s", most="2s")


class Trip(Saga, start=Wanted, key="trip", deadline="1h"):
    """Commanded steps, short limits, a pivot that may take longer than its own."""

    seat = step(done=SeatHeld, undo=DropSeat, undone=SeatDropped, within="20s")
    room = step(
        send=BookRoom, done=RoomBooked, failed=RoomRefused, undo=DropRoom, undone=RoomDropped, within="60s", retry=QUICK
    )
    pay = step(after=(seat, room), send=Pay, done=Paid, within="8s", pivot=True, retry=QUICK)
    ticket = step(
        after=pay, send=SendTicket, done=TicketSent, failed=TicketBounced, within="20s", retry=QUICK, optional=True
    )


def agencies() -> list[Service]:
    """The services of a trip; what meets trouble says its start event."""
    seats, rooms, tickets = Service("seats"), Service("rooms"), Service("tickets")

    @seats.on(Wanted)
    async def hold(wanted: Wanted, tx: Transaction) -> SeatHeld:
        return SeatHeld(trip=wanted.trip)

    @seats.on(DropSeat, undoes=hold)
    async def let_go(command: DropSeat, tx: Transaction) -> SeatDropped:
        return SeatDropped(trip=command.trip)

    @rooms.on(BookRoom)
    async def book(command: BookRoom, context: Context) -> RoomBooked | RoomRefused:
        if command.trouble == "full" or (command.trouble == "full once" and context.attempt == 1):
            return RoomRefused(trip=command.trip)
        return RoomBooked(trip=command.trip)

    @rooms.on(DropRoom, undoes=book)
    async def free(command: DropRoom) -> RoomDropped:
        return RoomDropped(trip=command.trip)

    @tickets.on(Pay)
    async def pay(command: Pay) -> Paid:
        if command.trouble == "slow":
            await asyncio.sleep(15)
        return Paid(trip=command.trip)

    @tickets.on(SendTicket)
    async def send(command: SendTicket) -> TicketSent | TicketBounced:
        if command.trouble == "bounces":
            return TicketBounced(trip=command.trip)
        return TicketSent(trip=command.trip)

    return [seats, rooms, tickets]


def trips(random: Random) -> list[Event]:
    """Two trips, each with a trouble of its own."""
    troubles = random.sample(["", "full", "full once", "slow", "bounces"], 2)
    return [Wanted(trip=str(number), trouble=trouble) for number, trouble in enumerate(troubles)]


def trip(faults: Collection[str] | None) -> Explorer:
    """Trips."""
    return Explorer(Trip, agencies(), events=trips, faults=faults)


class Asked(Event, topic="tours", key="tour"):
    tour: str
    trouble: str = ""


class CalledOff(Event, topic="tours", key="tour"):
    tour: str


class GuideFound(Event, topic="guides", key="tour"):
    tour: str


class LetGuideGo(Event, topic="guides.commands", key="tour"):
    tour: str


class GuideGone(Event, topic="guides", key="tour"):
    tour: str


class BusHired(Event, topic="buses", key="tour"):
    tour: str


class NoBus(Event, topic="buses", key="tour"):
    tour: str


class ReturnBus(Event, topic="buses.commands", key="tour"):
    tour: str
    trouble: str


class BusReturned(Event, topic="buses", key="tour"):
    tour: str


class Settle(Event, topic="bills.commands", key="tour"):
    tour: str
    trouble: str


class Settled(Event, topic="bills", key="tour"):
    tour: str


class Tour(Saga, start=Asked, key="tour", cancel=CalledOff, deadline="1h"):
    """Customers call it off at any time, undos are soon given up, and one service does not know of overtaking."""

    guide = step(done=GuideFound, undo=LetGuideGo, undone=GuideGone, within="20s")
    bus = step(done=BusHired, failed=NoBus, undo=ReturnBus, undone=BusReturned, within="20s", undo_within="3s")
    pay = step(after=(guide, bus), send=Settle, done=Settled, within="30s", pivot=True)


def offices() -> list[Service]:
    """The services of a tour."""
    guides, buses, bills = Service("guides"), Service("buses"), Service("bills")

    @guides.on(Asked)
    async def find(asked: Asked, tx: Transaction) -> GuideFound:
        return GuideFound(tour=asked.tour)

    @guides.on(LetGuideGo)  # it does not say what it undoes, so a guide may be found after he was let go
    async def let_go(command: LetGuideGo, tx: Transaction) -> GuideGone:
        return GuideGone(tour=command.tour)

    @buses.on(Asked)
    async def hire(asked: Asked, tx: Transaction) -> BusHired | NoBus:
        return NoBus(tour=asked.tour) if asked.trouble == "no bus" else BusHired(tour=asked.tour)

    @buses.on(ReturnBus, undoes=hire)
    async def give_back(command: ReturnBus) -> BusReturned:
        if command.trouble == "far away":
            await asyncio.sleep(5)
        return BusReturned(tour=command.tour)

    @bills.on(Settle)
    async def settle(command: Settle) -> Settled:
        if command.trouble == "slow":
            await asyncio.sleep(10)
        return Settled(tour=command.tour)

    return [guides, buses, bills]


def tours(random: Random) -> list[Event]:
    """Three tours, each with a trouble of its own; one or two of them are called off."""
    troubles = random.sample(["", "far away", "no bus", "slow"], 3)
    asked: list[Event] = [Asked(tour=str(number), trouble=trouble) for number, trouble in enumerate(troubles)]
    return [*asked, *(CalledOff(tour=str(number)) for number in random.sample(range(3), random.randint(1, 2)))]


def somebody_helps(run: Run) -> None:
    """A person comes to see what has waited for a second, and has an undo that was given up tried again."""
    world = run._simulation
    seen = world.clock() - SECOND
    for instance in run.instances:
        for name, each in instance.steps.items():
            if each.state is not StepState.UNDO_FAILED or each.since > seen:
                continue
            id_ = f"{instance.id}/{name}/{each.undo_attempt}"
            with world.saga_disk.reader.connect() as connection:
                if connection.execute(select(command.c.id).where(command.c.id == id_)).first() is None:
                    ask(
                        connection,
                        "retry-undo",
                        saga_id=instance.id,
                        by="somebody",
                        reason="it takes long",
                        id=id_,
                        at=world.clock(),
                        step=name,
                    )


def tour(faults: Collection[str] | None) -> Explorer:
    """Tours, with a person who looks after them."""
    return Explorer(Tour, offices(), events=tours, always=somebody_helps, faults=faults)


SCENARIOS: dict[str, Callable[[Collection[str] | None], Explorer]] = {
    "shop": shop,
    "trip": trip,
    "watched": watched,
    "tour": tour,
}
