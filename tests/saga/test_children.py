"""Sagas within sagas (row 21), on the pure function: parent and child side by side, what they tell carried by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from choreo import DefinitionError, Saga, any_of, child, step
from choreo.events.clock import SECOND
from choreo.events.envelope import Delivery, Envelope
from choreo.events.errors import LimitExceeded
from choreo.saga.advance import advance, begin, begin_undone
from choreo.saga.children import OUTCOMES
from choreo.saga.definition import Definition
from choreo.saga.inputs import Elapsed, Observed, Operator, Send, Tell, Transition, UndoAsked, command_id
from choreo.saga.instance import Instance, Parent
from choreo.saga.outcomes import OUTCOMES as CLASSES
from choreo.saga.past import history_row, read_input
from choreo.saga.routing import Routes
from choreo.saga.words import Phase
from tests.saga.families import Ordered, Ordering, PackGoods, Packing, Paid, Picked, Sealing, Unpaid, Wrapped


@dataclass
class Family:
    """A parent and its child, each in a store of its own; `deliver` carries what they have sent."""

    child_definition: Definition = field(default_factory=Packing.definition)
    now: int = 1_000 * SECOND
    child: Instance | None = None
    sent: list[Send] = field(default_factory=list)
    told: list[Tell] = field(default_factory=list)
    last: Transition = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.definition = Ordering.definition()
        self._parent_took(begin(self.definition, "1", 1, Observed("start", "Ordered", time=self.now), self.now))

    # ---- the parent -----------------------------------------------------------------------------------------------

    def parent_sees(self, type_: str, **options: Any) -> Transition:
        self.count += 1
        event = Observed(f"p{self.count}", type_, time=self.now, **options)
        return self._parent_took(advance(self.definition, self.parent, event, self.now))

    def parent_waits(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)
        self._parent_took(advance(self.definition, self.parent, Elapsed(self.now), self.now))

    def person(self, kind: str, *, child: bool = False) -> Transition:
        self.count += 1
        command = Operator(f"o{self.count}", kind, "ann", "because")  # type: ignore[arg-type]
        if child:
            assert self.child is not None
            return self._child_took(advance(self.child_definition, self.child, command, self.now))
        return self._parent_took(advance(self.definition, self.parent, command, self.now))

    def _parent_took(self, transition: Transition) -> Transition:
        self.parent, self.last = transition.instance, transition
        self.sent += [each for each in transition.outputs if isinstance(each, Send)]
        return transition

    # ---- the child ------------------------------------------------------------------------------------------------

    @property
    def whom(self) -> Parent:
        return Parent(self.parent.id, "pack")

    def begins(self) -> None:
        """The child's coordinator reads its start event."""
        event = Observed("begin", "PackGoods", time=self.now, parent=self.whom)
        if self.child is None:
            self._child_took(begin(self.child_definition, "1", 1, event, self.now))
        else:
            self._child_took(advance(self.child_definition, self.child, event, self.now))

    def child_sees(self, type_: str, **options: Any) -> None:
        self.count += 1
        assert self.child is not None
        event = Observed(f"c{self.count}", type_, time=self.now, **options)
        self._child_took(advance(self.child_definition, self.child, event, self.now))

    def undo_arrives(self) -> None:
        """The child's coordinator reads the parent's last undo."""
        undo = [each for each in self.sent if each.kind == "undo"][-1]
        asked = UndoAsked(command_id(self.parent.id, "pack", "", "undo", undo.attempt), self.whom)
        if self.child is None:
            self._child_took(begin_undone(self.child_definition, "1", 1, asked, self.now))
        else:
            self._child_took(advance(self.child_definition, self.child, asked, self.now))

    def child_waits(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)
        assert self.child is not None
        self._child_took(advance(self.child_definition, self.child, Elapsed(self.now), self.now))

    def undone(self, **options: Any) -> None:
        self.child_sees("BackOnShelf", **options)

    def _child_took(self, transition: Transition) -> Transition:
        self.child, self.last = transition.instance, transition
        self.told += [each for each in transition.outputs if isinstance(each, Tell)]
        return transition

    def packs(self) -> None:
        self.begins()
        self.child_sees("Picked")
        self.child_sees("Wrapped")

    def tells(self) -> str:
        """Carry the last thing told to the parent."""
        told = self.told[-1]
        cause = {"causation_id": told.undo} if told.undo else {}
        self.parent_sees(told.type, step=told.to.step, nothing_undone=told.empty, **cause)
        return told.type

    @property
    def phases(self) -> tuple[str, str]:
        return self.parent.phase.value, "" if self.child is None else self.child.phase.value


def packed(**options: Any) -> Family:
    family = Family(**options)
    family.packs()
    assert family.tells() == "SagaCompleted"
    return family


def test_a_child_that_ends_well_is_a_step_that_is_done() -> None:
    family = packed()
    assert [each.type for each in family.sent] == ["PackGoods"]
    assert family.parent.steps["pack"].state == "DONE"
    family.parent_sees("Paid")
    assert family.phases == ("COMPLETED", "COMPLETED")


def test_row_21_a_child_that_ended_well_is_undone_when_its_parent_fails() -> None:
    family = packed()
    family.parent_sees("Unpaid")
    assert family.parent.steps["pack"].state == "COMPENSATING"
    family.undo_arrives()
    assert family.phases == ("COMPENSATING", "COMPENSATING")
    assert family.child is not None
    assert family.child.epoch == 1, "what ended is opened again in a trace of its own (R11)"
    family.undone()
    assert family.child.phase == "CANCELLED"
    assert family.tells() == "SagaUndone"
    assert family.phases == ("COMPENSATED", "CANCELLED")


def test_row_21_a_child_that_runs_is_cancelled_when_its_parent_is() -> None:
    family = Family()
    family.begins()
    family.child_sees("Picked")
    family.person("cancel")
    family.undo_arrives()
    family.undone()
    assert family.tells() == "SagaUndone"
    assert family.phases == ("CANCELLED", "CANCELLED")
    assert family.told[0].type == "SagaUndone", "and says nothing else"


def test_row_15_an_undo_before_the_child_began_keeps_it_from_beginning() -> None:
    family = Family()
    family.person("cancel")
    family.undo_arrives()
    assert family.told[-1].empty
    family.tells()
    assert family.phases == ("CANCELLED", "CANCELLED")
    assert family.parent.steps["pack"].undo_empty
    family.begins()
    assert (family.last.verdict, family.last.reason) == ("ignored", "SecondStart")
    assert family.last.outputs == []
    assert family.phases == ("CANCELLED", "CANCELLED")


def test_a_child_that_is_undone_by_itself_fails_its_step_for_certain() -> None:
    family = Family()
    family.begins()
    family.child_sees("Unfound")
    assert family.tells() == "SagaCompensated"
    assert family.phases == ("COMPENSATED", "COMPENSATED")
    assert [each.kind for each in family.sent] == ["do"], "nothing is left of it, so it is not undone again"


def test_a_person_may_cancel_a_child() -> None:
    family = Family()
    family.begins()
    family.child_sees("Picked")
    family.person("cancel", child=True)
    family.undone()
    assert family.tells() == "SagaCancelled"
    assert family.phases == ("COMPENSATED", "CANCELLED")


def test_row_17_a_child_that_fails_for_good_needs_a_person_and_heals_its_parent() -> None:
    family = Family()
    family.begins()
    family.child_sees("Picked")
    family.child_waits(3_601)  # wrap is late, so pick is undone, and nobody answers that
    family.child_waits(7_201)
    assert family.tells() == "SagaFailed"
    assert family.phases == ("COMPENSATING", "FAILED"), "what the child did stands, so the parent asks for its undo"
    family.undo_arrives()
    assert family.tells() == "SagaUndoRefused"
    assert family.phases == ("FAILED", "FAILED")
    assert "WaitingForPerson" in family.parent.conditions
    assert family.parent.steps["pack"].error == "Refused"
    family.person("mark-undone", child=True)
    assert family.tells() == "SagaUndone"
    assert family.phases == ("COMPENSATED", "COMPENSATED")
    assert "WaitingForPerson" not in family.parent.conditions


def test_row_22_a_child_whose_pivot_is_passed_refuses_and_the_parent_needs_a_person() -> None:
    family = packed(child_definition=Sealing.definition())
    family.parent_sees("Unpaid")
    family.undo_arrives()
    assert family.child is not None
    assert (family.child.phase, family.child.epoch) == ("COMPLETED", 0)
    assert family.tells() == "SagaUndoRefused"
    assert family.parent.phase == "FAILED"
    assert "WaitingForPerson" in family.parent.conditions


def test_a_child_in_flight_behind_its_pivot_goes_forward() -> None:
    family = Family(child_definition=Sealing.definition())
    family.begins()
    family.child_sees("Picked")
    family.person("cancel")
    family.undo_arrives()
    assert family.tells() == "SagaUndoRefused"
    family.child_sees("Wrapped")
    assert family.phases == ("FAILED", "COMPLETED")


def test_the_undo_of_a_child_that_is_undone_already_is_answered_at_once() -> None:
    family = Family()
    family.begins()
    family.child_sees("Unfound")
    family.person("cancel")  # the news has not come yet
    family.undo_arrives()
    assert [each.type for each in family.told] == ["SagaCompensated", "SagaUndone"]
    family.tells()
    assert family.phases == ("CANCELLED", "COMPENSATED")


def test_an_undo_while_the_child_undoes_itself_is_answered_at_its_end() -> None:
    family = Family()
    family.begins()
    family.child_sees("Picked")
    family.child_waits(3_601)
    family.person("cancel")
    family.undo_arrives()
    assert family.told == []
    family.undone()
    assert [each.type for each in family.told] == ["SagaUndone"]
    family.tells()
    assert family.phases == ("CANCELLED", "COMPENSATED")


def test_a_late_end_of_a_child_that_was_given_up_is_undone_once() -> None:
    family = Family()
    family.parent_waits(24 * 3_600 + 1)
    assert family.parent.steps["pack"].state == "COMPENSATING"
    family.packs()
    family.tells()
    assert [each.kind for each in family.sent if each.kind == "undo" and not each.again] == ["undo"]
    family.undo_arrives()
    family.undone()
    family.tells()
    assert family.phases == ("COMPENSATED", "CANCELLED")


def test_a_saga_is_not_undone_by_who_has_not_begun_it() -> None:
    family = Family()
    family.begins()
    assert family.child is not None
    asked = UndoAsked("u", Parent("ordering/other", "pack"))
    transition = advance(family.child_definition, family.child, asked, family.now)
    assert (transition.verdict, transition.reason) == ("ignored", "OtherParent")
    assert [(each.type, each.to.id, each.empty) for each in transition.outputs if isinstance(each, Tell)] == [
        ("SagaUndone", "ordering/other", True)
    ]
    assert transition.instance.phase is Phase.RUNNING


def test_a_parent_whose_child_exists_already_is_told_at_once() -> None:
    family = Family()
    family.begins()
    assert family.child is not None
    event = Observed("x", "PackGoods", parent=Parent("ordering/2", "pack"))
    transition = advance(family.child_definition, family.child, event, family.now)
    assert transition.reason == "SecondStart"
    assert [(each.type, each.to.id) for each in transition.outputs if isinstance(each, Tell)] == [
        ("SagaCancelled", "ordering/2")
    ]


def test_what_another_child_says_is_no_answer() -> None:
    family = Family()
    assert family.parent_sees("SagaCompleted", step="pay").reason == "NoChild"
    assert family.parent_sees("SagaCompleted").reason == "NoChild"


def test_two_children_of_one_saga_are_told_apart_by_the_header() -> None:
    class Twice(Saga, start=Ordered, key="order_id"):
        one = child(Packing, start=PackGoods, within="1d")
        two = child("other", start=Picked, within="1d")

    definition = Twice.definition()
    instance = begin(definition, "1", 1, Observed("s", "Ordered"), 0).instance
    instance = advance(definition, instance, Observed("a", "SagaCompleted", step="two"), 1).instance
    assert [instance.steps[name].state for name in ("one", "two")] == ["WAITING", "DONE"]
    instance = advance(definition, instance, Observed("b", "SagaCancelled", step="one"), 2).instance
    assert instance.phase == "COMPENSATING"
    assert instance.steps["two"].state == "COMPENSATING"


def test_a_child_after_the_pivot_or_as_the_pivot_has_no_undo() -> None:
    class Forward(Saga, start=Ordered, key="order_id"):
        pay = step(done=Paid, within="1h", pivot=True)
        pack = child(Packing, start=PackGoods, after=pay, within="1d")

    class Pivotal(Saga, start=Ordered, key="order_id"):
        pack = child(Packing, start=PackGoods, within="1d", pivot=True)

    assert Forward.definition().by_name["pack"].undo is None
    assert Pivotal.definition().by_name["pack"].undo is None


def test_a_child_that_cannot_work_is_refused_where_it_is_defined() -> None:
    with pytest.raises(DefinitionError, match="start=Picked does not start it; PackGoods does"):
        child(Packing, start=Picked, within="1d")
    with pytest.raises(DefinitionError, match="it only observes, so it would never say how it ends"):
        child(Packing.observe_only(), start=PackGoods, within="1d")
    with pytest.raises(DefinitionError, match="a saga type is in lower case"):
        child("Packing", start=PackGoods, within="1d")


def test_fault_52_a_start_event_that_is_nested_too_deep_is_refused() -> None:
    routes = Routes([Packing.definition()], {"packing": 0}, {})
    headers = {"saga_id": "ordering/1", "saga_type": "ordering", "saga_step": "pack"}

    def read(depth: int) -> Any:
        envelope = Envelope("e", "PackGoods", "s", 0, "1", saga_depth=depth, **headers)
        return routes.observe(Delivery("inventory.commands", 0, 0, 0, b"1", b"", ()), envelope, lambda *_: "")

    assert read(10).input.parent == Parent("ordering/1", "pack", "", 10)
    with pytest.raises(LimitExceeded, match="it begins a saga within 11 others, at most 10 may be nested"):
        read(11)


def test_what_a_child_hears_is_in_its_history_as_it_came() -> None:
    family = Family()
    for input_ in (
        UndoAsked("u", Parent("ordering/1", "pack", "x", 2), "00-trace"),
        Observed("e", "PackGoods", parent=Parent("ordering/1", "pack")),
    ):
        transition = advance(family.definition, family.parent, input_, family.now)
        row = history_row(family.parent, transition, input_, "id", None, family.now)
        assert read_input(row.kind, row.input) == input_


def test_every_word_that_a_child_may_say_is_an_event() -> None:
    assert set(CLASSES) == OUTCOMES


def test_any_of_two_children_is_enough() -> None:
    class Either(Saga, start=Ordered, key="order_id"):
        one = child(Packing, start=PackGoods, within="1d")
        two = child("other", start=Picked, within="1d")
        pay = step(after=any_of(one, two), done=Paid, failed=Unpaid, undo=None, within="1h")
        wrap = step(after=pay, done=Wrapped, undo=None, within="1h")

    definition = Either.definition()
    instance = begin(definition, "1", 1, Observed("s", "Ordered"), 0).instance
    instance = advance(definition, instance, Observed("a", "SagaCompleted", step="two"), 1).instance
    assert instance.steps["pay"].state == "WAITING"
    assert instance.steps["one"].state == "COMPENSATING", "it is undone by itself"
