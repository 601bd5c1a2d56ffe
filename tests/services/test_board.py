"""Whatever the order of steps, undos, copies and crashes: what was done is undone, what was refused never ran."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from choreo.events.envelope import Delivery, Envelope
from choreo.services.board import Board, Finished, Go
from choreo.services.context import Transaction
from choreo.services.inbox import Key, Row
from choreo.services.job import Job, Later, Result, Route, Stage
from choreo.services.service import Service
from tests.services.shop import Charge, Charged, Refund, Refunded, command

CLAIM = 1_000


def _service(tx: bool) -> Service:
    service = Service("payment")
    if tx:

        @service.on(Charge)
        async def charge(command: Charge, tx: Transaction) -> Charged: ...

        @service.on(Refund, undoes=charge)
        async def refund(command: Refund, tx: Transaction) -> Refunded: ...
    else:

        @service.on(Charge)
        async def charge(command: Charge) -> Charged: ...

        @service.on(Refund, undoes=charge)
        async def refund(command: Refund) -> Refunded: ...

    return service


@dataclass
class World:
    """The inbox, the clock, the work that was begun, and what it did."""

    tx: bool
    rows: dict[Key, Row] = field(default_factory=dict)
    now: int = 0
    running: list[Job] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    finished: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        service = _service(self.tx)
        self.routes = [Route(service, handler) for handler in service.handlers]

    def deliver(self, name: str) -> None:
        undo, attempt = name[0] == "u", int(name[1])
        headers = command("charge", attempt, undoes=("s1", "s2") if undo else ())
        envelope = Envelope(name, "Refund" if undo else "Charge", "saga", 0, "1", **headers)
        route = self.routes[undo]
        for ahead in [job for job in self.running if job.route is route]:  # one lane: its turn comes later
            self.running.remove(ahead)
            self.running.insert(0, ahead)
            self.end("works")
        self.commit([Job(route, envelope, Delivery("t", 0, 0, 0, b"1", b"", ()), None, route.stage)])

    def commit(self, jobs: list[Job]) -> None:
        """Commit until no job waits; a wait for a claim ends when the claim does."""
        while jobs:
            board = Board(
                self.rows,
                (),
                now=self.now,
                claim=CLAIM,
                empty=lambda job: Result("handled", "empty", answered=True),
                position=str,
            )
            waiting = []
            for job in jobs:
                following = board.decide(job)
                if following is Go.TRANSACT:
                    self.effect(job)
                    job.result, job.stage = Result("handled", "done", answered=job.command), Stage.RECORD
                    following = board.decide(job)
                if following is Go.RUN:
                    self.running.append(job)
                elif isinstance(following, Later):
                    waiting.append(job)
                elif isinstance(following, Finished):
                    self.finished.append((job.envelope.id, following.kind))
            self.rows = board.rows
            jobs = waiting
            self.now += CLAIM if waiting else 1

    def effect(self, job: Job) -> None:
        (self.undone if job.route.forward else self.done).append(job.envelope.id)

    def end(self, how: str) -> None:
        """Let what was begun first end: it works, fails for good, or its process dies before it can say so."""
        if not self.running:
            return
        job = self.running.pop(0)
        if how != "dies before":
            self.effect(job)
        if how == "works":
            job.result = Result("handled", "done", answered=job.command)
        elif how == "fails" and job.route.forward is None:
            job.result = Result("dead", "failed")
        else:
            self.deliver(job.envelope.id)  # the offset was not committed: it comes again
            return
        job.stage = Stage.RECORD
        self.commit([job])


STEPS = st.one_of(
    st.sampled_from(["s1", "s1", "s2", "u1", "u2"]),
    st.sampled_from(["works", "works", "fails", "dies before", "dies after"]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=14), st.booleans())
def test_what_was_done_is_undone_and_nothing_runs_after_its_undo(story, tx):
    world = World(tx)
    for step in [*story, "u9"]:
        if step[0] in "su":
            world.deliver(step)
        else:
            world.end(step)
        while step == "u9" and world.running:
            world.end("works")
    before = list(world.done)
    for late in ("s1", "s2", "s3"):
        world.deliver(late)
        assert not world.running
    assert world.done == before, "an event ran after its undo was answered"
    assert bool(world.undone) >= bool(world.done), "something was done and never undone"
    if tx:
        assert len(world.undone) == (1 if world.done else 0)
    if not world.done and not any(step.startswith("dies") for step in story):
        assert not world.undone, "nothing had been done"


@given(st.lists(st.sampled_from(["u1", "u2", "u3"]), min_size=1, max_size=8))
def test_an_undo_that_nobody_kills_has_its_effect_once(undos):
    world = World(tx=False)
    world.deliver("s1")
    world.end("works")
    for undo in undos:
        world.deliver(undo)
        world.end("works")
    assert len(world.undone) == 1
