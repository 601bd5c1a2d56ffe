"""The model check: what it says of the demo saga and of small ones, and that it finds what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from choreo.events.event import Event
from choreo.saga.advance import advance, begin
from choreo.saga.checking.nodes import NOW, Node
from choreo.saga.checking.scope import Scope
from choreo.saga.checking.search import Search, model_check
from choreo.saga.checking.story import as_test, mermaid, rerun, tell
from choreo.saga.cli.app import call
from choreo.saga.definition import Definition
from choreo.saga.demo.saga import Fulfilment
from choreo.saga.inputs import Elapsed, HandlerGaveUp, Input, Observed, Operator, Send, Transition
from choreo.saga.instance import Instance
from choreo.saga.saga import Saga
from choreo.saga.step import step
from choreo.saga.words import Condition, Phase, StepState
from tests.saga.play import define, plan

QUICK = Scope(duplicates=1, crashes=0, commands=0, attempts=1)


def test_the_demo_saga_keeps_every_invariant_in_a_small_world() -> None:
    report = model_check(Fulfilment.definition(), QUICK)
    assert report.stopped == ""
    assert report.bad == ()
    assert report.states > 10_000


SMALL = {
    "line": define(plan("reserve", 0), plan("charge", 1, "reserve")),
    "commanded": define(plan("reserve", 0, send="reserve.do"), plan("charge", 1, "reserve", send="charge.do")),
    "fork": define(plan("reserve", 0), plan("charge", 1)),
    "join": define(plan("reserve", 0), plan("charge", 1), plan("pack", 2, "reserve", "charge")),
    "pivot": define(plan("reserve", 0), plan("ship", 1, "reserve", send="ship.do", pivot=True)),
    "optional": define(plan("gift", 0, optional=True), plan("charge", 1, "gift", send="charge.do")),
    "nothing to undo": define(plan("look", 0, undo=None, undone=()), plan("charge", 1, "look")),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_sagas_keep_every_invariant(name: str) -> None:
    faults = 0 if name == "join" else 1
    report = model_check(SMALL[name], Scope(duplicates=faults, crashes=faults, commands=0, attempts=1))
    assert report.stopped == ""
    assert [bad.lines for bad in report.bad] == []


@pytest.mark.parametrize("name", ["nothing to undo", "pivot"])
def test_people_change_nothing_about_that(name: str) -> None:
    report = model_check(SMALL[name], Scope(duplicates=1, crashes=1, commands=1))
    assert report.stopped == ""
    assert [bad.lines for bad in report.bad] == []


# ---- it finds what is wrong -----------------------------------------------------------------------------------------

Change = Callable[[Definition, Instance, Input, Transition], Transition | None]


def changed(change: Change) -> Callable[[Definition, Instance, Any, int], Transition]:
    """The coordinator's function with a bug in it."""

    def buggy(definition: Definition, instance: Instance, input_: Any, now: int) -> Transition:
        transition = advance(definition, instance, input_, now)
        return change(definition, instance, input_, transition) or transition

    return buggy


def ignored(instance: Instance) -> Transition:
    copy = instance.copy()
    copy.seq += 1
    return Transition(copy, "ignored", "Late")


def undo_twice(_: Definition, before: Instance, input_: Input, transition: Transition) -> None:
    transition.outputs += [each for each in transition.outputs if isinstance(each, Send) and each.kind == "undo"]


def undo_all_at_once(definition: Definition, before: Instance, input_: Input, transition: Transition) -> None:
    if before.phase is Phase.RUNNING and transition.instance.phase is Phase.COMPENSATING:
        for name, each in transition.instance.steps.items():
            if each.state is StepState.DONE:
                each.state, each.undo_attempt, each.undo_sends = StepState.COMPENSATING, 1, 1
                transition.outputs.append(Send("undo", name, f"{name}.undo", 1))


def forget_late_success(
    definition: Definition, before: Instance, input_: Input, transition: Transition
) -> Transition | None:
    late = isinstance(input_, Observed) and input_.type.endswith(".done") and before.phase is not Phase.RUNNING
    return ignored(before) if late else None


def timer_that_fires_again(_: Definition, before: Instance, input_: Input, transition: Transition) -> None:
    if isinstance(input_, Elapsed):
        for each in transition.instance.steps.values():
            if each.state is StepState.COMPENSATING and each.undo_send_at is None:
                each.undo_send_at = NOW + 1


def end_before_the_answers(_: Definition, before: Instance, input_: Input, transition: Transition) -> None:
    if transition.instance.phase is Phase.COMPENSATING:
        transition.instance.phase = Phase.COMPENSATED


def tell_nobody(_: Definition, before: Instance, input_: Input, transition: Transition) -> None:
    transition.instance.conditions.pop(Condition.WAITING_FOR_PERSON, None)


def cancel_after_the_pivot(definition: Definition, before: Instance, input_: Input, _: Transition) -> Transition | None:
    if not isinstance(input_, Operator) or input_.kind != "cancel" or before.steps["ship"].state != "WAITING":
        return None
    copy = before.copy()
    copy.seq, copy.phase, copy.cancelling = copy.seq + 1, Phase.CANCELLED, True
    return Transition(copy)


def raise_when_parked(_: Definition, before: Instance, input_: Input, transition: Transition) -> None:
    if isinstance(input_, HandlerGaveUp) and not input_.dead:
        raise KeyError(input_.handler)


def change_what_was_given(_: Definition, before: Instance, input_: Input, transition: Transition) -> None:
    before.steps["reserve"].error = "changed"


def not_pinned(_: Definition, before: Instance, input_: Input, transition: Transition) -> None:
    transition.instance.version = 2


def reopen_in_the_same_trace(_: Definition, before: Instance, input_: Input, transition: Transition) -> None:
    transition.instance.epoch = before.epoch


def limit_that_passes_for_ever(
    _: Definition, before: Instance, input_: Input, transition: Transition
) -> Transition | None:
    if not isinstance(input_, Elapsed) or before.phase is not Phase.RUNNING:
        return None
    copy = before.copy()
    copy.seq += 1
    for each in copy.steps.values():
        if each.limit_at == NOW:
            each.limit_at = NOW + 30_000_000
    return Transition(copy)


BUGS: dict[Change, set[str]] = {
    undo_twice: {"R3"},
    undo_all_at_once: {"S10"},
    forget_late_success: {"S18"},
    timer_that_fires_again: {"S16"},
    end_before_the_answers: {"R11"},
    tell_nobody: {"V1"},
    cancel_after_the_pivot: {"R7"},
    raise_when_parked: {"no-exception"},
    change_what_was_given: {"S3"},
    not_pinned: {"S17"},
    reopen_in_the_same_trace: {"R11"},
    limit_that_passes_for_ever: {"V1"},
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_seeded_bug_is_found_with_a_short_run(bug: Change) -> None:
    definition = SMALL["pivot"] if bug is cancel_after_the_pivot else SMALL["line"]
    scope = Scope(duplicates=1, crashes=0, commands=1, attempts=2)
    buggy = changed(bug)
    report = model_check(definition, scope, advance=buggy)
    bad = next(each for each in report.bad if each.broken.invariant in BUGS[bug])
    assert len(bad.lines) <= 8
    if bug is limit_that_passes_for_ever:
        return  # the run leads to a round, not to one bad decision
    with pytest.raises(AssertionError, match="at line"):
        rerun(definition, bad.lines, scope, advance=buggy)
    rerun(definition, bad.lines, scope)  # without the bug the run is no failure


# ---- and tells it ---------------------------------------------------------------------------------------------------


class Said(Event, topic="model", key="order_id"):
    order_id: str


class Ordered(Said): ...


class Packed(Said): ...


class Unpack(Said): ...


class Unpacked(Said): ...


class Gone(Said): ...


class Loose(Saga, start=Ordered, key="order_id"):
    pack = step(done=Packed, undo=Unpack, undone=Unpacked, within="30s")
    go = step(after=pack, done=Gone, within="1d", pivot=True)


LOOSE = Scope(duplicates=0, crashes=0, commands=0, attempts=1)


def test_a_choreographed_pivot_may_happen_while_all_is_undone() -> None:
    [bad] = model_check(Loose.definition(), LOOSE).bad
    assert bad.hazard
    told = tell(Loose.definition(), LOOSE, bad)
    assert told[0] == "  1. Ordered begins the saga\n     so pack is WAITING"
    assert told[-1].strip() == "unasked-pivot: it is COMPENSATED and the pivot go has happened"
    drawn = mermaid(Loose.definition(), LOOSE, bad).splitlines()
    assert drawn[0] == "sequenceDiagram"
    assert "    coordinator->>pack: Unpack" in drawn
    assert drawn[-1] == "    Note over coordinator: unasked-pivot: it is COMPENSATED and the pivot go has happened"


def test_the_test_to_paste_runs_and_fails(tmp_path: Path) -> None:
    [bad] = model_check(Loose.definition(), LOOSE).bad
    source = Path(__file__).read_text()
    declared = source[source.index("class Said(") : source.index("LOOSE = ")]
    imports = "from choreo import Event, Saga, step\n\n\n"
    (tmp_path / "loose_shop.py").write_text(imports + declared)
    (tmp_path / "test_pasted.py").write_text(as_test("Loose", "loose_shop", LOOSE, bad))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "test_pasted.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "1 failed" in ran.stdout
    assert "it is COMPENSATED and the pivot go has happened" in ran.stdout


def test_the_command_shows_the_run_in_all_three_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Path(__file__).read_text()
    declared = source[source.index("class Said(") : source.index("LOOSE = ")]
    (tmp_path / "loose_way.py").write_text("from choreo import Event, Saga, step\n\n\n" + declared)
    assert call(["check", f"{tmp_path}/loose_way.py", "--model", "--duplicates", "0", "--crashes", "0"]) == 0
    out = capsys.readouterr().out
    assert "1. Ordered begins the saga" in out
    assert "sequenceDiagram" in out
    assert "def test_unasked_pivot_" in out
    assert "everything in this scope" in out
    assert call(["check", f"{tmp_path}/loose_way.py", "--model", "--crashes", "0", "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)[-1]
    assert told["schema"] == "saga.model/v1"
    assert told["stopped"] is None
    assert told["runs"][0]["invariant"] == "unasked-pivot"


# ---- how far it goes ------------------------------------------------------------------------------------------------


def test_leaving_out_what_is_only_shown_hides_no_state() -> None:
    definition = SMALL["line"]
    exact, short = (
        search(definition, Scope(duplicates=1, crashes=0, commands=0, attempts=1), exact=exact)
        for exact in (True, False)
    )
    assert exact.bad == short.bad == {}
    assert len(short.world.nodes.nodes) < len(exact.world.nodes.nodes)
    assert words(short) == words(exact)


def search(definition: Definition, scope: Scope, *, exact: bool) -> Search:
    made = Search(definition, scope, advance, begin, every=False, progress=None)
    made.world.nodes.exact = exact
    made.run()
    return made


def words(searched: Search) -> set[tuple[object, ...]]:
    """All that the words for saga and steps, and what is asked of people, may be."""
    return {
        (node.instance.phase, node.needs_person, *(each.state for each in node.instance.steps.values()))
        for node in searched.world.nodes.nodes
    }


def test_it_stops_where_it_is_told_to_and_says_so() -> None:
    assert model_check(SMALL["line"], Scope(depth=2)).stopped == "the depth of 2 actions is reached"
    assert model_check(SMALL["join"], Scope(states=100)).stopped == "100 states were seen"


def test_an_interrupt_gives_what_was_seen_so_far() -> None:
    def interrupt(states: int, _transitions: int, depth: int) -> None:
        if depth > 3:
            raise KeyboardInterrupt

    report = model_check(SMALL["line"], Scope(), progress=interrupt)
    assert report.stopped == "interrupted"
    assert report.states > 10


def test_a_step_per_element_is_tried_with_none_one_and_two_elements() -> None:
    definition = define(plan("pick", 0, each="lines", send="pick.do"))
    report = model_check(definition, Scope(duplicates=0, crashes=0, commands=0, attempts=1))
    assert report.stopped == ""
    assert [bad.lines for bad in report.bad] == []
    assert report.coordinator > 50


def test_people_approve_and_reject() -> None:
    asked = plan("allow", 0, approval="boss", done=(), failed=(), undo=None, undone=())
    definition = define(
        plan("pay", 1, send="pay.do"), asked, plan("go", 2, "pay", "allow", send="go.do"), cancel=("stop",)
    )
    report = model_check(definition, Scope(duplicates=0, crashes=0, commands=1, attempts=1, seconds=30))
    assert [(bad.broken, bad.lines) for bad in report.bad] == []
    done = [node for node in report_nodes(definition) if node.instance.phase is Phase.COMPLETED]
    assert done


def report_nodes(definition: Definition) -> list[Node]:
    made = search(definition, Scope(duplicates=0, crashes=0, commands=0, attempts=1), exact=False)
    return made.world.nodes.nodes


@pytest.mark.parametrize("kind", ["when", "any_of", "instead_of", "final"])
def test_the_whole_language_is_tried(kind: str) -> None:
    steps = {
        "when": (plan("gift", 0, when=True, send="gift.do"), plan("pay", 1, "gift", send="pay.do")),
        "any_of": (
            plan("air", 0, send="air.do"),
            plan("road", 1, send="road.do"),
            plan("bill", 2, any_of=(("air", "road"),), send="bill.do"),
        ),
        "instead_of": (
            plan("air", 0, send="air.do"),
            plan("road", 1, instead_of="air", send="road.do"),
            plan("bill", 2, "air", send="bill.do"),
        ),
        "final": (
            plan("pay", 0, send="pay.do"),
            plan("tell", 1, final=True, send="tell.do", undo=None, undone=()),
        ),
    }
    report = model_check(define(*steps[kind]), Scope(duplicates=0, crashes=0, commands=0, attempts=1, seconds=20))
    assert [(bad.broken, bad.lines) for bad in report.bad] == []
