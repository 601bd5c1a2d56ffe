"""The whole model: a coordinator, its participants and the messages between them, and everything that may happen next.

A state is one number made of four: the coordinator's node, the participants' states, the messages on their way to the
coordinator, and the faults that are left. What each part does next is asked once and kept, so a step of the search is a
few look-ups.

What is left out, and why nothing is lost by it:

- A participant does something only when the coordinator is about to read what it says. Until then nobody can tell
  whether it has acted, so all that it may have done is one state; then every way in which it may have come to say it is
  a choice of its own, with what it has said before still on its way. What is lost is what is never read.
- A coordinator that dies before its commit leaves the state before it, which was visited; what it reads and publishes
  again after its commit carries the same ids, which the history's index and the inbox drop. The fault of a duplicate is
  therefore the harder one, a copy under another id.
- A state with fewer faults left than one that was visited, and else the same, can do nothing that the other cannot.
- Sagas of a definition share no state: any run of several, seen from one of them, is a run of that one with at most the
  same faults. So one is explored with all the faults that there are.

Messages to the coordinator come in any order: that is more than a broker with partitions allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..definition import Definition
from ..inputs import HandlerGaveUp, Input, Observed, Operator, command_id
from ..names import saga_id
from ..occurrence import element_of, wire_of
from ..words import Phase, StepState
from .actions import TIMERS, Action, person, said_of, spelled
from .cast import cast
from .judge import Broken
from .nodes import KEY, Advance, Begin, Edge, Node, Nodes, Sent
from .numbers import Numbers
from .participant import BY_HAND, Role, Said, Source, State
from .scope import Scope, cost, covers, left
from .shape import declared

START = "start"
_NODE, _PARTS, _BAG, _FAULTS = 0, 24, 48, 72
_MASK = (1 << 24) - 1


class Speech(NamedTuple):
    """One way in which a participant comes to say something.

    Args:
        before: what was done for it, in order.
        code: what is said, and read.
        parts: the participants' states after it.
        unread: what was said before it and is still on its way.
        faults: what it costs.
    """

    before: tuple[str, ...]
    code: int
    parts: int
    unread: frozenset[int]
    faults: int


class World:
    """Everything that may happen to one saga within a scope.

    Args:
        definition: the saga.
        scope: how far.
        advance, begin: the code under test.
    """

    def __init__(self, definition: Definition, scope: Scope, advance: Advance, begin: Begin) -> None:
        self.definition = scope.cut(definition)
        self.scope = scope
        self.name = saga_id(definition.type, KEY, 1)
        self.nodes = Nodes(self.definition, advance, begin)
        self.roles = cast(self.definition)
        self.by_step = {role.name: role for role in self.roles}
        self._followers: dict[int, list[tuple[Role, int, str]]] = {role.number: [] for role in self.roles}
        for role in self.roles:
            for place, source in enumerate(role.sources, start=1):
                self._followers[source.role].append((role, place, source.kind))
        self._states = Numbers[State]()
        self._parts = Numbers[tuple[int, ...]]()
        self._bags = Numbers[frozenset[int]]()
        self._said = Numbers[Said]()
        self._inputs: list[Input] = []
        self._reads: list[Action] = []
        self._taken: dict[tuple[int, int], int] = {}
        self._speeches: dict[int, tuple[Speech, ...]] = {}
        self._deliveries: dict[tuple[int, tuple[Sent, ...]], int] = {}
        self._timer_actions: dict[int, tuple[tuple[Action, tuple[Edge, ...]], ...]] = {}
        self._copied: dict[tuple[int, int], tuple[int, ...]] = {}
        self._read_edges: dict[tuple[int, int], tuple[Edge, ...]] = {}

    # ---- states --------------------------------------------------------------------------------------------------

    def first(self) -> Iterator[tuple[Action, int, Broken | None]]:
        """Begin the saga: the first states, with the action that leads to them."""
        event = Observed(START, self.definition.start[0], time=1)
        parts = tuple(
            self._states.of(role.triggered(state, 1) if role.rooted else state)
            for role, state in ((role, role.begin()) for role in self.roles)
        )
        action = Action("start", f"{event.type} begins the saga", input=event)
        for edge in self.nodes.start(event):
            if edge.node < 0:
                yield action, -1, edge.broken
                continue
            delivered = self._delivered(self._parts.of(parts), edge.sent)
            yield action, _pack(edge.node, delivered, self._bags.of(frozenset()), self.scope.budget), edge.broken

    def node(self, state: int) -> Node:
        """Give the coordinator's part of a state."""
        return self.nodes.nodes[state & _MASK]

    @staticmethod
    def place(state: int) -> tuple[int, int]:
        """Split a state into what it is and the faults that are left."""
        return state & ((1 << _FAULTS) - 1), state >> _FAULTS

    def next(self, state: int) -> Iterator[tuple[Action, int, Broken | None]]:
        """List everything that may happen in a state, with the state after it and what is wrong with that."""
        node, parts, bag, faults = state & _MASK, (state >> _PARTS) & _MASK, (state >> _BAG) & _MASK, state >> _FAULTS
        speeches = self._speeches.get(parts)
        if speeches is None:
            speeches = self._speeches[parts] = tuple(self._speak(parts))
        for before, code, after, unread, spent in speeches:
            if not spent or covers(faults, spent):
                rest = self._put(bag, unread) if unread else bag
                yield from self._read(node, code, before, after, rest, faults - spent)
        for code in self._bags[bag]:
            rest = self._take(bag, code)
            yield from self._read(node, code, (), parts, rest, faults)
        timers = self._timer_actions.get(node)
        if timers is None:
            timers = self._timer_actions[node] = tuple(self._timers(node))
        for action, edges in timers:
            for edge in edges:
                if self._is_copy(node, edge, parts):
                    if left(faults, "duplicates"):
                        yield self._after(action, edge, parts, bag, faults - cost("duplicates"))
                    elif edge.broken is not None:
                        yield self._after(action, edge, parts, bag, faults)
                else:
                    yield self._after(action, edge, parts, bag, faults)
        for action in self._deciders(node):
            assert action.input is not None
            for edge in self.nodes.edges(node, action.step, action.input):
                yield self._after(action, edge, parts, bag, faults)
        if left(faults, "commands"):
            for action in self._people(node):
                assert action.input is not None
                for edge in self.nodes.edges(node, action.step, action.input):
                    handled = self._by_hand(parts, action) if edge.node >= 0 else parts
                    yield self._after(action, edge, handled, bag, faults - cost("commands"))
        if left(faults, "duplicates"):
            for code in self._copies(node, parts):
                yield from self._read(node, code, (), parts, bag, faults - cost("duplicates"))

    def _read(
        self, node: int, code: int, before: tuple[str, ...], parts: int, bag: int, faults: int
    ) -> Iterator[tuple[Action, int, Broken | None]]:
        edges = self._read_edges.get((node, code))
        if edges is None:
            step = self.roles[self._said[code].role].name
            edges = self._read_edges[node, code] = self.nodes.edges(node, step, self._inputs[code])
        action = self._reads[code]
        if before:
            action = action._replace(before=before)
        for edge in edges:
            yield self._after(action, edge, parts, bag, faults)

    def _after(
        self, action: Action, edge: Edge, parts: int, bag: int, faults: int
    ) -> tuple[Action, int, Broken | None]:
        if edge.node < 0:
            return action, -1, edge.broken
        after = self._delivered(parts, edge.sent) if edge.sent else parts
        if edge.answers:
            action = action._replace(label=f"{action.label} ({edge.answers})")
        return action, _pack(edge.node, after, bag, faults), edge.broken

    def _is_copy(self, node: int, edge: Edge, parts: int) -> bool:
        """Whether a timer only sent a command again to who has it already: that is a duplicate like any other."""
        if edge.node < 0 or not edge.sent or self._delivered(parts, edge.sent) != parts:
            return False
        before, after = self.nodes.nodes[node], self.nodes.nodes[edge.node]
        words = [(step.state, step.certain) for step in before.instance.steps.values()]
        same = words == [(step.state, step.certain) for step in after.instance.steps.values()]
        blocked = any(state is StepState.UNKNOWN for state, _ in words)
        return same and not blocked and before.needs_person == after.needs_person

    def timed(self) -> dict[int, list[int]]:
        """Give for each node of the coordinator those to which its timers lead."""
        return {
            node: [edge.node for _, edges in actions for edge in edges if edge.node >= 0]
            for node, actions in self._timer_actions.items()
        }

    @staticmethod
    def place_of(state: int) -> int:
        """Give the number of the coordinator's node in a state."""
        return state & _MASK

    def quiet(self, state: int) -> bool:
        """Tell whether nothing happens any more by itself."""
        return not self.nodes.nodes[state & _MASK].timers and not self._bags[(state >> _BAG) & _MASK]

    def settled(self, state: int) -> Iterator[Broken]:
        """Judge a quiet state: an end or a person (V1), and each participant's effect as the saga says (S11, S18)."""
        node = self.node(state)
        yield from self.nodes.judge.quiet(node.instance)
        instance = node.instance
        for role, number in zip(self.roles, self._parts[(state >> _PARTS) & _MASK], strict=True):
            known = self._states[number]
            effect = known.effect
            if "C" in known.rows:
                continue  # it tells what it did when it comes back
            step = instance.steps.get(role.name)
            if step is None:
                continue  # an element that this saga has not
            word = step.state
            if effect == BY_HAND or not role.plan.done:
                continue
            if instance.phase is Phase.COMPLETED and word is StepState.DONE and not effect:
                yield Broken("S18", f"it is COMPLETED and {role.name} is DONE, and it has no effect")
            stands = effect == 1 and (
                word in (StepState.COMPENSATED, StepState.FAILED)
                or (word in (StepState.PENDING, StepState.SKIPPED) and instance.phase.ended)
            )
            undone = instance.phase in (Phase.COMPENSATED, Phase.CANCELLED)
            if stands and role.plan.undo is not None:
                yield Broken("S18", f"{role.name} is {word} and its effect stands")
            elif undone and effect == 1 and role.plan.undo is not None:
                yield Broken("S18", f"it is {instance.phase} and the effect of {role.name} stands")
            elif undone and effect == 1 and role.plan.pivot:
                code = "S9" if role.commanded else "unasked-pivot"
                yield Broken(code, f"it is {instance.phase} and the pivot {role.name} has happened")

    # ---- the participants ----------------------------------------------------------------------------------------

    def _speak(self, parts: int) -> Iterator[Speech]:
        """List every way in which some participant comes to say something."""
        for role in self.roles:
            found: dict[tuple[int, int, frozenset[int], int], tuple[str, ...]] = {}
            for before, code, after, unread, spent in self._ways(parts, role, (), frozenset(), 0, ""):
                key = (code, after, unread, spent)
                if key not in found or len(before) < len(found[key]):
                    found[key] = before
            for (code, after, unread, spent), before in found.items():
                yield Speech(before, code, after, unread, spent)

    def _ways(
        self, parts: int, role: Role, before: tuple[str, ...], unread: frozenset[int], spent: int, wanted: str
    ) -> Iterator[Speech]:
        """Let a participant act until it speaks, and those that it waits for until they have succeeded.

        Args:
            parts: the participants' states.
            role: who is to speak.
            before, unread, spent: what was done so far, what it said on its way, and what it cost.
            wanted: only to say this; "" for whatever it says.
        """
        numbers = self._parts[parts]
        state = self._states[numbers[role.number]]
        if state.fresh:
            message = state.fresh[0]
            for outcome in role.options(state):
                done = (*before, f"{spelled(role, message)}: {outcome.label}")
                price = spent + cost(outcome.fault) if outcome.fault else spent
                if not covers(self.scope.budget, price):
                    continue
                after = self._with(numbers, role, outcome.state)
                said = outcome.said
                if said is None:
                    yield from self._ways(after, role, done, unread, price, wanted)
                    continue
                if said.kind in ("done", "failed"):
                    after = self._spread(after, role, said.kind)
                code = self._say(said)
                if wanted in ("", said.kind):
                    yield Speech(done, code, after, unread, price)
                if outcome.state.fresh:
                    yield from self._ways(after, role, done, unread | {code}, price, wanted)
        for source in self._missing(role, state):
            for way in self._ways(parts, self.roles[source.role], before, unread, spent, source.kind):
                yield from self._ways(way.parts, role, way.before, way.unread | {way.code}, way.faults, wanted)

    def _missing(self, role: Role, state: State) -> Iterator[Source]:
        """The sources of a participant that have not triggered it so far."""
        for place, source in enumerate(role.sources, start=1):
            if state.rows[place - 1] == "-" and place not in state.fresh and place not in state.late:
                yield source

    def _copies(self, node: int, parts: int) -> tuple[int, ...]:
        """List what was said and may come again under another id."""
        found = self._copied.get((node, parts))
        if found is None:
            ledger = self.nodes.nodes[node].ledger
            copies = []
            for role, number in zip(self.roles, self._parts[parts], strict=True):
                state = self._states[number]
                if ledger.of(role.name).done:
                    copies.append(Said(role.number, "done", 1, 1, copy=True))
                for index, row in enumerate(state.rows, start=1):
                    if row == "F":
                        copies.append(Said(role.number, "failed", index, 1, copy=True))
                for attempt, (known, _) in enumerate(state.undos, start=1):
                    if known in "AE":
                        copies.append(Said(role.number, "undone", attempt, 2 * attempt, known == "E", copy=True))
            found = self._copied[node, parts] = tuple(self._say(said) for said in copies)
        return found

    def _spread(self, parts: int, role: Role, kind: str) -> int:
        """Lay an answer before those who act on it: a success, or a failure where that lets the process go on."""
        numbers = list(self._parts[parts])
        for follower, place, wanted in self._followers[role.number]:
            if kind != wanted:
                continue
            numbers[follower.number] = self._states.of(
                follower.triggered(self._states[numbers[follower.number]], place)
            )
        return self._parts.of(tuple(numbers))

    def _delivered(self, parts: int, sent: tuple[Sent, ...]) -> int:
        if not sent:
            return parts
        key = (parts, sent)
        found = self._deliveries.get(key)
        if found is None:
            numbers = list(self._parts[parts])
            for send in sent:
                role = self.by_step.get(send.step)
                if role is None:
                    continue
                state = self._states[numbers[role.number]]
                if send.kind == "do":
                    state = role.triggered(state, send.attempt)
                else:
                    state = role.asked_to_undo(state, send.attempt, self._named(role, state, send))
                numbers[role.number] = self._states.of(state)
            found = self._deliveries[key] = self._parts.of(tuple(numbers))
        return found

    def _named(self, role: Role, state: State, send: Sent) -> frozenset[int]:
        """The triggers that an undo command names, as the participant knows them."""
        return frozenset(
            index for index in range(1, len(state.rows) + 1) if self.trigger_id(role, index) in send.undoes
        )

    def trigger_id(self, role: Role, index: int) -> str:
        """Give the id of the event that is one of a participant's triggers."""
        if role.commanded:
            return command_id(self.name, *wire_of(role.name), "do", index)
        if not role.sources:
            return START
        source = role.sources[index - 1]
        return f"{self.roles[source.role].name}:{source.kind}"

    # ---- the coordinator's inputs --------------------------------------------------------------------------------

    def _timers(self, number: int) -> Iterator[tuple[Action, tuple[Edge, ...]]]:
        for step, field in self.nodes.nodes[number].timers:
            action = Action("timer", f"{step or 'the saga'}: {TIMERS.get(field, field)}", step=step or None)
            yield action, self.nodes.fire(number, (step, field))

    def _people(self, number: int) -> Iterator[Action]:
        instance = self.nodes.nodes[number].instance
        if instance.phase is Phase.RUNNING:
            yield person("cancel", None)
            for type_ in self.definition.cancel:
                yield Action("person", f"{type_} is read", input=Observed(f"cancel:{type_}", type_))
        for name, step in instance.steps.items():
            if step.state is StepState.UNDO_FAILED:
                yield person("retry-undo", name)
                yield person("mark-undone", name)
            elif step.state is StepState.COMPENSATING:
                yield person("mark-undone", name)

    def _deciders(self, number: int) -> Iterator[Action]:
        """What people answer to steps that wait for them: it is no fault, so it costs nothing."""
        for name, step in self.nodes.nodes[number].instance.steps.items():
            if step.state is StepState.WAITING and self.nodes.shape.plan(name).approval is not None:
                yield person("approve", name)
                yield person("reject", name)

    def _by_hand(self, parts: int, action: Action) -> int:
        role = self.by_step.get(action.step or "")
        if role is None or not isinstance(action.input, Operator) or action.input.kind != "mark-undone":
            return parts
        numbers = self._parts[parts]
        return self._with(numbers, role, self._states[numbers[role.number]]._replace(effect=BY_HAND))

    def _input(self, said: Said) -> Input:
        role = self.roles[said.role]
        plan, name = role.plan, role.name
        copy = "'" if said.copy else ""
        trigger = self.trigger_id(role, said.number) if said.kind in ("done", "failed", "gave-up") else ""
        base, element = declared(name), element_of(name)
        of = (None, element) if element is None else (wire_of(name)[1], element)
        if said.kind in ("done", "failed"):
            type_ = plan.done[0] if said.kind == "done" else plan.failed[0]
            id_ = f"{name}:{said.kind}{copy}"
            step, attempt = (base, said.number) if role.commanded else (None, None)
            return Observed(id_, type_, "", said.time, trigger, step, attempt, None, False, *of)
        undo = command_id(self.name, *wire_of(name), "undo", said.number)
        if said.kind == "undone":
            id_ = f"{name}:undone:{said.number}{copy}"
            return Observed(id_, plan.undone[0], "", said.time, undo, base, said.number, None, said.empty, *of)
        forward = said.kind == "gave-up"
        type_ = (plan.send or self._trigger_type(role, said.number)) if forward else plan.undo or ""
        return HandlerGaveUp(
            id=f"{name}:{said.kind}:{said.number}",
            event_id=trigger if forward else undo,
            event_type=type_,
            service=name,
            handler=name,
            produces=(*plan.done, *plan.failed) if forward else plan.undone,
            dead=True,
            error="Error",
        )

    def _trigger_type(self, role: Role, index: int) -> str:
        if not role.sources:
            return self.definition.start[0]
        source = role.sources[index - 1]
        plan = self.roles[source.role].plan
        return plan.done[0] if source.kind == "done" else plan.failed[0]

    # ---- numbering -----------------------------------------------------------------------------------------------

    def _with(self, numbers: tuple[int, ...], role: Role, state: State) -> int:
        return self._parts.of((*numbers[: role.number], self._states.of(state), *numbers[role.number + 1 :]))

    def _say(self, said: Said) -> int:
        number = self._said.of(said)
        if number == len(self._inputs):
            input_ = self._input(said)
            self._inputs.append(input_)
            name = self.roles[said.role].name
            self._reads.append(Action("read", f"the coordinator reads {said_of(name, said)}", (), input_, name))
        return number

    def _put(self, bag: int, said: frozenset[int]) -> int:
        return self._bags.of(self._bags[bag] | said)

    def _take(self, bag: int, code: int) -> int:
        found = self._taken.get((bag, code))
        if found is None:
            found = self._taken[bag, code] = self._bags.of(self._bags[bag] - {code})
        return found


def _pack(node: int, parts: int, bag: int, faults: int) -> int:
    return node | (parts << _PARTS) | (bag << _BAG) | (faults << _FAULTS)
