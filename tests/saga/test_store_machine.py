"""The store of the coordinator against books kept in dictionaries: one machine, on SQLite and on PostgreSQL.

Batches hold duplicates, early events and second starts; they commit, are rolled back, or meet another one that is under
way. What each saga must then be is said by the model of test_machine.py, what else must be in the tables by the books.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, select

from choreo import Saga, step
from choreo.events.clock import SECOND
from choreo.events.codec import Codec, to_record
from choreo.events.database import Database
from choreo.events.envelope import Delivery, Envelope, TopicPartition, read_envelope
from choreo.events.memory import MemoryBroker
from choreo.events.registry import open_registry
from choreo.events.settings import load_settings
from choreo.saga import early, operators, store, timers
from choreo.saga.batch import Batch
from choreo.saga.commands import Sender
from choreo.saga.declaration import Declaration
from choreo.saga.instance import Instance
from choreo.saga.knowledge import Knowledge
from choreo.saga.names import saga_id
from choreo.saga.routing import Arrival, Routes
from choreo.saga.tables import HEAD, history, ignored, metadata, parked, position, saga, sent
from tests.saga.model import ENDS, Model, Pauses, Rule
from tests.saga.stage import EVENTS, Declined, Order, Paid, Placed, Refused, Release, Released, Reserved
from tests.support.profiles import bounded

DAY = 24 * 3_600
START = 1_700_000_000
KEYS = ("a", "b/c ü", "d")


class Again(Saga, start=Placed, key="order_id", rerun=True):
    reserve = step(done=Reserved, failed=Refused, undo=Release, undone=Released, within="30s")
    charge = step(after=reserve, done=Paid, failed=Declined, undo=None, within="30s")


class Happening(NamedTuple):
    """An event: of which kind, for which key, and the number of its id."""

    kind: str
    key: str
    id: int


KINDS = {
    "start": Placed,
    "reserve done": Reserved,
    "reserve failed": Refused,
    "reserve undone": Released,
    "charge done": Paid,
    "charge failed": Declined,
}


@dataclass
class World:
    """What outlives one story: the store, and what reads and writes events."""

    runner: asyncio.Runner
    database: Database
    codec: Codec
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def do(self, work: Callable[[Connection], Any]) -> Any:
        return self.runner.run(self.database.write(work))


@dataclass
class Books:
    """What the tables must hold."""

    rules: tuple[Rule, ...]
    rerun: bool
    now: int = START
    runs: dict[str, list[Model]] = field(default_factory=dict)
    seen: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    early: dict[str, dict[int, tuple[Happening, int]]] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)

    def batch(self, happenings: Sequence[Happening]) -> None:
        for happening in happenings:
            self.arrives(happening)

    def arrives(self, happening: Happening) -> None:
        runs = self.runs.get(happening.key, [])
        name = f"e{happening.id}"
        if any(name in self.seen[happening.key, number] for number in range(1, len(runs) + 1)):
            self.ignored["duplicate"] += 1
        elif happening.kind == "start" and (not runs or (self.rerun and runs[-1].phase in ENDS)):
            self.runs.setdefault(happening.key, []).append(Model(self.rules, self.now))
            self.seen[happening.key, len(runs) + (0 if runs else 1)] = [name]
            for early, _ in self.early.pop(happening.key, {}).values():
                self.tell(early)
        elif not runs:
            self.early.setdefault(happening.key, {}).setdefault(happening.id, (happening, self.now))
        else:
            self.tell(happening)

    def tell(self, happening: Happening) -> None:
        runs = self.runs[happening.key]
        self.seen[happening.key, len(runs)].append(f"e{happening.id}")
        name, _, what = happening.kind.partition(" ")
        model = runs[-1]
        meant = {
            "": lambda: False,
            "done": lambda: model.success(name, self.now),
            "failed": lambda: model.failure(name, None),
            "undone": lambda: model.undone(name, self.now, empty=False),
        }[what]()
        if not meant:
            self.ignored["by the saga"] += 1

    def passes(self, seconds: int) -> None:
        self.now += seconds
        for key, runs in self.runs.items():
            for number, model in enumerate(runs, 1):
                model.now = self.now
                if model.elapse(0):
                    self.seen[key, number].append("timer")
        for key, waiting in list(self.early.items()):
            for number, (_, since) in list(waiting.items()):
                if since + DAY <= self.now:
                    del waiting[number]
                    self.ignored["unmatched"] += 1
            if not waiting:
                del self.early[key]

    def asked(self, kind: str, key: str, name: str | None) -> bool:
        if key not in self.runs:
            return False
        model = self.runs[key][0]  # a name without a number is that of the first run
        meant = {
            "cancel": model.cancel,
            "retry-undo": lambda: model.retry_undo(name),
            "mark-undone": lambda: model.mark_undone(name),
        }[kind]()
        self.seen[key, 1].append("person")
        return meant

    def told(self) -> dict[str, Any]:
        """Say everything that must be found in the tables."""
        found: dict[str, Any] = {"ignored": dict(self.ignored)}
        for key, runs in self.runs.items():
            for number, model in enumerate(runs, 1):
                due = model.next_due()
                commands = Counter((each.split(".")[0], each.split(".")[1][:-2]) for each in fresh(model.sent))
                found[key, number] = (
                    model.phase,
                    model.states(),
                    due,
                    len(self.seen[key, number]),
                    [each for each in self.seen[key, number] if each.startswith("e")],
                    dict(commands),
                )
        found["early"] = {key: sorted(f"e{number}" for number in waiting) for key, waiting in self.early.items()}
        return found


def fresh(commands: Sequence[str]) -> list[str]:
    return [command for command in commands if not command.endswith("*")]


class Rolled(Exception):
    """Ends a transaction that must leave nothing."""


HAPPENINGS = st.tuples(st.sampled_from(sorted(KINDS)), st.sampled_from(KEYS), st.booleans())
BATCH = st.lists(HAPPENINGS, min_size=1, max_size=6)


class Shelves(RuleBasedStateMachine):
    """Anything may arrive, in batches, at any time."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    @initialize(rerun=st.booleans())
    def begins(self, rerun: bool) -> None:
        declaration: Declaration = (Again if rerun else Order).declaration()
        self.type = f"story{next(self.world.numbers)}"
        definition = replace(declaration.definition, type=self.type)
        declaration = replace(declaration, definition=definition)
        known = {(self.type, 1): declaration}
        self.knowledge = Knowledge(
            known, {self.type: declaration}, {(self.type, 1): definition}, {}, self.world.codec, sampled, Sender("n")
        )
        self.routes = Routes([definition], {}, {})
        plan = definition.by_name["reserve"]
        pauses = [
            Pauses(each.attempts, each.first // SECOND, each.most // SECOND)
            for each in (plan.retry, plan.resend, plan.undo_retry, plan.undo_resend)
        ]
        rule_ = Rule("reserve", (), 30, False, True, False, False, *pauses, plan.undo_within // SECOND)
        self.books = Books((rule_, replace(rule_, name="charge", after=("reserve",), undoable=False)), rerun)
        self.ids = itertools.count(1)
        self.offsets = itertools.count(0)
        self.known: list[Happening] = []

    # ---- what happens ----------------------------------------------------------------------------------------------

    def made(self, drawn: Sequence[tuple[str, str, bool]]) -> list[Happening]:
        """Make events of what was drawn; a repeated one is an earlier one of its kind, with the same id."""
        happenings = []
        for kind, key, again in drawn:
            known = [each for each in self.known if (each.kind, each.key) == (kind, key)]
            happening = known[-1] if again and known else Happening(kind, key, next(self.ids))
            self.known.append(happening)
            happenings.append(happening)
        return happenings

    def arrival(self, happening: Happening) -> Arrival:
        values = {"order_id": happening.key}
        event = KINDS[happening.kind](**values)
        now = self.books.now * SECOND
        envelope = Envelope(f"{self.type}:e{happening.id}", event.spec().type, "test", now, happening.key)
        record = to_record(event, envelope, self.world.codec)
        delivery = Delivery(record.topic, 0, next(self.offsets), now // 1_000, record.key, record.value, record.headers)
        return self.routes.observe(delivery, read_envelope(delivery), lambda *_: happening.key)

    def batch(self, happenings: Sequence[Happening], *, rolled_back: bool = False) -> Callable[[Connection], None]:
        arrivals = [self.arrival(each) for each in happenings]

        def work(batch: Batch) -> None:
            batch.load(arrivals)
            for arrival in arrivals:
                batch.arrive(arrival)
            places = {arrival.delivery.place: arrival.delivery.offset + 1 for arrival in arrivals}
            store.save_positions(batch.connection, self.type, places, {})

        return self.within(work, rolled_back=rolled_back)

    def within(self, work: Callable[[Batch], Any], *, rolled_back: bool = False) -> Callable[[Connection], None]:
        def transaction(connection: Connection) -> None:
            batch = Batch(connection, self.knowledge, self.books.now * SECOND)
            work(batch)
            batch.write()
            assert batch.refused == []
            store.put_sent(connection, batch.held, batch.now, {})
            if rolled_back:
                raise Rolled

        return transaction

    @rule(drawn=BATCH)
    def a_batch_arrives(self, drawn: list[tuple[str, str, bool]]) -> None:
        happenings = self.made(drawn)
        self.world.do(self.batch(happenings))
        self.books.batch(happenings)

    @rule(key=st.sampled_from(KEYS), charged=st.booleans())
    def an_order_comes_far(self, key: str, charged: bool) -> None:
        kinds = ("start", "reserve done", "charge done" if charged else "charge failed")
        happenings = self.made([(kind, key, False) for kind in kinds])
        self.world.do(self.batch(happenings))
        self.books.batch(happenings)

    @rule(drawn=BATCH)
    def a_batch_is_rolled_back_and_comes_again(self, drawn: list[tuple[str, str, bool]]) -> None:
        happenings = self.made(drawn)
        with pytest.raises(Rolled):
            self.world.do(self.batch(happenings, rolled_back=True))
        assert self.found() == self.books.told()
        self.world.do(self.batch(happenings))
        self.books.batch(happenings)

    @rule(one=BATCH, other=BATCH)
    def two_batches_meet(self, one: list[tuple[str, str, bool]], other: list[tuple[str, str, bool]]) -> None:
        first, second = self.made(one), self.made(other)

        async def until_won(happenings: Sequence[Happening]) -> None:
            while True:
                try:
                    await self.world.database.write(self.batch(happenings))
                    return
                except store.LostRace:
                    continue

        async def both() -> None:
            await asyncio.gather(until_won(first), until_won(second))

        self.world.runner.run(both())
        found = self.found()
        outcomes = []
        for order in ((first, second), (second, first)):
            books = deepcopy(self.books)
            for happenings in order:
                books.batch(happenings)
            outcomes.append(books)
        fitting = [books for books in outcomes if books.told() == found]
        assert fitting, f"{found} is neither {outcomes[0].told()} nor {outcomes[1].told()}"
        self.books = fitting[0]

    @rule(seconds=st.sampled_from([1, 31, 61, 300, 2_000, DAY]))
    def time_passes(self, seconds: int) -> None:
        self.books.passes(seconds)

        def fire(batch: Batch) -> None:
            now = batch.now
            due = [each for each in self.due(batch.connection, now) if each[0].type == self.type]
            batch.load_keys([(instance.type, instance.key) for instance, _ in due])
            batch.elapse(due)
            for row in early.expired(batch.connection, now):
                batch.count_expired(row)

        self.world.do(self.within(fire))

    def due(self, connection: Connection, now: int) -> list[tuple[Instance, int]]:
        return timers.due(connection, now, lambda _: now, held=False, stopped=False)

    @rule(
        kind=st.sampled_from(["cancel", "retry-undo", "mark-undone"]),
        key=st.sampled_from(KEYS),
        name=st.sampled_from([None, "reserve"]),
    )
    def a_person_asks(self, kind: str, key: str, name: str | None) -> None:
        name = None if kind == "cancel" else name
        meant = self.books.asked(kind, key, name)

        def work(connection: Connection) -> operators.Answer:
            arguments = {} if name is None else {"step": name}
            id_ = operators.ask(connection, kind, saga_id=saga_id(self.type, key), by="ann", reason="r", **arguments)
            (asked,) = operators.take(connection, ())
            self.within(lambda batch: operators.apply(batch, asked))(connection)
            return operators.answer(connection, id_)

        assert self.world.do(work).state == (operators.APPLIED if meant else operators.REFUSED)

    # ---- what must hold --------------------------------------------------------------------------------------------

    @precondition(lambda self: hasattr(self, "books"))
    @invariant()
    def the_tables_hold_what_the_books_say(self) -> None:
        assert self.found() == self.books.told()

    def found(self) -> dict[str, Any]:
        return self.world.do(self.read)

    def read(self, connection: Connection) -> dict[str, Any]:
        counted: Counter[str] = Counter()
        for row in connection.execute(select(ignored).where(ignored.c.saga_type == self.type)):
            counted[row.reason if row.reason in ("duplicate", "unmatched") else "by the saga"] += row.count
        found: dict[str, Any] = {"ignored": dict(counted)}
        for row in connection.execute(select(saga).where(saga.c.type == self.type)):
            instance = Instance.from_json(row.state)
            assert (row.phase, row.next_due, row.seq) == (instance.phase.value, instance.next_due, instance.seq)
            lines = connection.execute(select(history).where(history.c.saga_id == row.id).order_by(history.c.seq)).all()
            assert [line.seq for line in lines] == list(range(1, row.seq + 1)), "S2: a row of history for each input"
            held = connection.execute(select(sent.c.step, sent.c.kind).where(sent.c.saga_id == row.id)).all()
            found[row.key, row.run] = (
                row.phase,
                {name: each.state.value for name, each in instance.steps.items()},
                row.next_due if row.next_due is None else row.next_due // SECOND,
                len(lines),
                [line.event_id.partition(":")[2] for line in lines if line.kind == "event"],
                dict(Counter((each.step, each.kind) for each in held)),
            )
        early: dict[str, list[str]] = {}
        for row in connection.execute(select(parked).where(parked.c.type == self.type)):
            early.setdefault(row.key, []).append(row.event_id.partition(":")[2])
        found["early"] = {key: sorted(waiting) for key, waiting in early.items()}
        self.positions_only_grow(connection)
        return found

    def positions_only_grow(self, connection: Connection) -> None:
        rows = connection.execute(select(position).where(position.c.group == self.type))
        found = {TopicPartition(row.topic, row.partition): row.next_offset for row in rows}
        before: dict[TopicPartition, int] = getattr(self, "saved", {})
        assert all(found[place] >= offset for place, offset in before.items())
        self.saved = found


def sampled(_: str, __: str | None) -> bool:
    return False


def test_the_store_holds_what_books_kept_beside_it_say(store_url: str) -> None:
    with asyncio.Runner() as runner:
        broker = MemoryBroker("")
        runner.run(broker.__aenter__())
        codec = Codec(open_registry(load_settings(broker="memory:"), broker))
        runner.run(codec.prepare(EVENTS))
        database = runner.run(Database.open(store_url, clock=lambda: 0))
        runner.run(database.ensure_schema("saga", metadata, HEAD))
        world = World(runner, database, codec)
        try:
            run_state_machine_as_test(lambda: Shelves(world), settings=bounded(25, steps=15, shrink=False))
        finally:
            runner.run(database.close())
            runner.run(broker.__aexit__(None, None, None))
