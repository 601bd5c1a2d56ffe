"""Locks whatever the order of things (row 23): nobody shares one, nobody overtakes, nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import replace
from random import Random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import Connection, delete, func, select

from choreo import Saga, lock, step
from choreo.events.clock import SECOND
from choreo.events.database import Database
from choreo.saga import queues, store
from choreo.saga.advance import advance, begin
from choreo.saga.inputs import Elapsed, Input, Locked, Observed, Operator
from choreo.saga.instance import Instance
from choreo.saga.lock import LockKey, LockPlan
from choreo.saga.options import Options
from choreo.saga.tables import HEAD, lock_queue, metadata, saga
from choreo.saga.tables import lock as lock_table
from choreo.saga.turns import Turned, Turns, change_of
from choreo.saga.words import Phase
from tests.support.profiles import bounded

from .play import define, plan
from .stage import Placed, Reserved, Stage

WAITS, EXPIRES = 60 * SECOND, 300 * SECOND
PLAN = LockPlan("customer", "customer", WAITS, EXPIRES)
WAITING = define(plan("reserve", 0, undo=None, undone=(), within=1_000 * SECOND), lock=PLAN)
REFUSING = replace(WAITING, lock=replace(PLAN, otherwise="refuse"))
CUSTOMERS = ("ann", "bob")
VERSIONS = [("order", 1)]


class Queues(RuleBasedStateMachine):
    """Sagas that begin, end, give up and are looked after, each in a transaction of its own, beside a plain list."""

    def __init__(self, runner: asyncio.Runner, database: Database) -> None:
        super().__init__()
        self._runner, self._database = runner, database
        self.now = 1_000 * SECOND
        self.sagas: dict[str, Instance] = {}
        self.order: dict[str, list[str]] = defaultdict(list)  # who came for each customer, in order
        self._write(_empty)

    # ---- what happens ------------------------------------------------------------------------------------------

    @rule(customer=st.sampled_from(CUSTOMERS), refuses=st.booleans())
    def begins(self, customer: str, refuses: bool) -> None:
        definition = REFUSING if refuses else WAITING
        start = Observed(f"e{len(self.sagas)}", "placed", time=self.now, lock=customer)
        new = begin(definition, f"{len(self.sagas):04d}", 1, start, self.now).instance

        def work(connection: Connection) -> Instance:
            told = advance(definition, new, Turns(connection).of(new), self.now).instance
            queues.write(connection, change_of([Turned(None, told)]))
            store.insert_sagas(connection, [told], self.now)
            return told

        self.order[customer].append(new.id)
        self._keep(self._write(work))

    @precondition(lambda self: self._open())
    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        self._apply(self._any(data), Observed(f"d{self.now}", "reserve.done", time=self.now))

    @precondition(lambda self: self._open())
    @rule(data=st.data())
    def is_cancelled(self, data: st.DataObject) -> None:
        self._apply(self._any(data), Operator(f"c{self.now}", "cancel", "ann"))

    @rule(seconds=st.sampled_from([1, 40, 70, 310]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * SECOND
        for id_ in sorted(self._open()):
            if (due := self.sagas[id_].next_due) is not None and due <= self.now:
                self._apply(id_, Elapsed(self.now))

    @rule()
    def a_coordinator_looks(self) -> None:
        self._look()

    # ---- what must hold ----------------------------------------------------------------------------------------

    @invariant()
    def one_saga_at_a_time_holds_a_lock_and_the_tables_say_so(self) -> None:
        held = {
            LockKey("customer", each.lock.key): each.id
            for each in self.sagas.values()
            if each.lock is not None and each.lock.state == "held"
        }
        assert len(held) == sum(each.lock is not None and each.lock.state == "held" for each in self.sagas.values())
        lines = {line.of: line for line in self._read(queues.lines)}
        assert {of: line.holder.saga_id for of, line in lines.items() if line.holder is not None} == held
        for customer in CUSTOMERS:
            line = lines.get(LockKey("customer", customer))
            waiting = [each.saga_id for each in line.waiting] if line is not None else []
            assert waiting == [id_ for id_ in self.order[customer] if self.sagas[id_].waits_for_lock]

    def teardown(self) -> None:
        """Whatever has happened: when each holder ends, each one that waits has its turn, in the end."""
        for _ in range(len(self.sagas) + 1):
            self._look()
            for id_ in sorted(self._open()):
                if self.sagas[id_].lock.state in ("held", "expired"):  # type: ignore[union-attr]
                    self._apply(id_, Observed(f"t{self.now}", "reserve.done", time=self.now))
        assert self._open() == []
        assert self._read(queues.lines) == []

    # ---- pieces ------------------------------------------------------------------------------------------------

    def _open(self) -> list[str]:
        return [id_ for id_, each in self.sagas.items() if not each.phase.ended]

    def _any(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self._open())))

    def _look(self) -> None:
        """As a tick does: find whose turn it is, and tell them."""

        def work(connection: Connection) -> list[Instance]:
            turned = []
            for each in queues.next_in_line(connection, VERSIONS):
                before = self.sagas[each.saga_id]
                turned.append(Turned(before, advance(WAITING, before, Locked(granted=True), self.now).instance))
            queues.write(connection, change_of(turned))
            return [each.after for each in turned]

        for each in self._write(work):
            self._keep(each)
        assert not self._read(lambda connection: queues.any_in_line(connection, VERSIONS))

    def _apply(self, id_: str, input_: Input) -> None:
        before = self.sagas[id_]
        after = advance(WAITING, before, input_, self.now).instance
        self._write(lambda connection: queues.write(connection, change_of([Turned(before, after)])))
        self._keep(after)

    def _keep(self, instance: Instance) -> None:
        """Note how a saga stands now; who gets the lock overtakes nobody who may still wait."""
        before = self.sagas.get(instance.id)
        self.sagas[instance.id] = instance
        assert instance.lock is not None
        if instance.lock.state == "held" and (before is None or before.waits_for_lock):
            order = self.order[instance.lock.key]
            earlier = [self.sagas[id_] for id_ in order[: order.index(instance.id)]]
            assert not [each.id for each in earlier if each.waits_for_lock]

    def _write(self, work):  # type: ignore[no-untyped-def]
        return self._runner.run(self._database.write(work))

    def _read(self, work):  # type: ignore[no-untyped-def]
        return self._runner.run(self._database.read(work))


def _empty(connection: Connection) -> None:
    connection.execute(delete(lock_table))
    connection.execute(delete(lock_queue))
    connection.execute(delete(saga))


def test_row_23_locks_are_exclusive_and_fair_and_nobody_waits_for_ever(store_url: str) -> None:
    cheap = store_url.startswith("sqlite")  # a file's durability is not the question
    cases = 15 if cheap else 8
    with asyncio.Runner() as runner:
        database = runner.run(Database.open("sqlite::memory:" if cheap else store_url, clock=lambda: 0))
        try:
            runner.run(database.ensure_schema("saga", metadata, HEAD))
            run_state_machine_as_test(lambda: Queues(runner, database), settings=bounded(cases, steps=25, shrink=False))
        finally:
            runner.run(database.close())


# ---- several transactions at once -----------------------------------------------------------------------------


async def test_row_23_of_two_transactions_that_take_a_free_lock_one_starts_over(store_url: str) -> None:
    database = await Database.open(store_url, clock=lambda: 0)
    other = await Database.open(store_url, clock=lambda: 0)
    try:
        await database.ensure_schema("saga", metadata, HEAD)
        of = LockKey("customer", "ann")

        def take(name: str) -> queues.Change:
            return queues.Change([queues.Taken(of, name, 1, 2)], [], [], [])

        results = await asyncio.gather(
            database.write(lambda connection: queues.write(connection, take("order/1"))),
            other.write(lambda connection: queues.write(connection, take("order/2"))),
            return_exceptions=True,
        )
        assert sorted(type(each).__name__ for each in results) == ["LostRace", "NoneType"]
        line = await database.read(lambda connection: queues.line_of(connection, of))
        assert line.holder is not None
    finally:
        await database.close()
        await other.close()


async def test_row_23_transactions_that_take_and_free_the_same_locks_never_wait_in_a_ring(store_url: str) -> None:
    database = await Database.open(store_url, clock=lambda: 0)
    others = [await Database.open(store_url, clock=lambda: 0) for _ in range(3)]
    try:
        await database.ensure_schema("saga", metadata, HEAD)
        keys = [LockKey("customer", name) for name in "abcdef"]

        async def churn(each: Database, number: int) -> int:
            random, mine, lost = Random(number), set[LockKey](), 0
            for turn in range(25):
                wanted = {key for key in random.sample(keys, 3) if key not in mine}
                freed = set(random.sample(sorted(mine), min(len(mine), 2)))
                change = queues.Change(
                    [
                        queues.Taken(key, f"order/{number}", turn, turn + 1)
                        for key in random.sample(sorted(wanted), len(wanted))
                    ],
                    [(key, f"order/{number}") for key in freed],
                    [],
                    [],
                )
                try:
                    await asyncio.wait_for(each.write(lambda c, change=change: queues.write(c, change)), 20)  # type: ignore[misc]
                    mine = (mine | wanted) - freed
                except store.LostRace:
                    lost += 1
                    await each.write(
                        lambda c, held=tuple(mine): queues.write(  # type: ignore[misc]
                            c, queues.Change([], [(key, f"order/{number}") for key in held], [], [])
                        )
                    )
                    mine = set()
            return lost

        await asyncio.gather(*(churn(each, number) for number, each in enumerate(others)))
        held = await database.read(lambda c: [line.holder for line in queues.lines(c)])
        assert len(held) <= len(keys)
    finally:
        for each in (database, *others):
            await each.close()


# ---- coordinators ----------------------------------------------------------------------------------------------


class Order(Saga, start=Placed, key="order_id", lock=lock("total", name="total", waits="1h", expires="2h")):
    reserve = step(done=Reserved, undo=None, within="1h")


def _snapshot(connection: Connection) -> tuple[dict[str, Instance], dict[tuple[str, str], str]]:
    """The sagas and the locks of one moment."""
    both = select(saga.c.state, lock_table.c.name, lock_table.c.key).outerjoin(
        lock_table, lock_table.c.saga_id == saga.c.id
    )
    sagas, locks = {}, {}
    for state, name, key in connection.execute(both):
        instance = Instance.from_json(state)
        sagas[instance.id] = instance
        if name is not None:
            locks[name, key] = instance.id
    return sagas, locks


@pytest.mark.parametrize("seed", [1, 2])
async def test_row_23_two_coordinators_never_let_two_sagas_in_and_forget_nobody(store_url: str, seed: int) -> None:
    random, orders, customers = Random(seed), 24, 3
    async with Stage(store_url, (Order,), Options(poll=0.01, tick=0.02)) as stage:
        await stage.start()
        await stage.start()
        over = asyncio.Event()
        looks = 0

        async def watch() -> None:
            nonlocal looks
            while not over.is_set():
                sagas, locks = await stage.database.read(_snapshot)
                held = [each.lock.of for each in sagas.values() if each.lock is not None and each.lock.state == "held"]
                assert len(held) == len(set(held)), held
                assert {tuple(each) for each in held} == set(locks)
                looks += 1
                await asyncio.sleep(0.005)

        async def finish() -> None:
            told: set[str] = set()
            while len(told) < orders:
                for id_, each in (await stage.instances()).items():
                    held = each.lock is not None and each.lock.state == "held"
                    if held and id_ not in told and random.random() < 0.5:
                        told.add(id_)
                        await stage.publish(Reserved(order_id=each.key))
                await asyncio.sleep(0.01)

        watching = asyncio.create_task(watch())
        for number in range(orders):
            await stage.publish(Placed(order_id=str(number), total=random.randrange(customers)))
            if random.random() < 0.3:
                await asyncio.sleep(0.02)
        await asyncio.wait_for(finish(), 90)
        found = await stage.until(lambda found: all(each.phase.ended for each in found.values()))
        over.set()
        await watching
        assert looks > 5
        assert len(found) == orders
        assert {each.phase for each in found.values()} == {Phase.COMPLETED}
        assert await stage.database.read(queues.lines) == []
        counted = select(func.count()).select_from(lock_queue)
        assert await stage.database.read(lambda connection: connection.execute(counted).scalar()) == 0
