"""Where in which saga a handler's run stands: by the input's saga headers, else by its type and key.

A service needs no saga code for this: the definitions are data, read from `choreo.definitions`, and what the handler
consumes and produces is its own announcement. The result only decides where spans stand; no event is handled otherwise
because of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

from ..events.envelope import Envelope
from .ids import ROOT, compensation_path, name_with_run, saga_name, step_path

Kind = Literal["step", "comp", "saga"]

_MOST_NAME = 1_024


class StepLike(Protocol):
    """A step of an announced definition, as far as placing needs it."""

    @property
    def name(self) -> str: ...
    @property
    def after(self) -> Sequence[str]: ...
    @property
    def follows(self) -> Sequence[str]: ...
    @property
    def done(self) -> Sequence[str]: ...
    @property
    def failed(self) -> Sequence[str]: ...
    @property
    def send(self) -> str | None: ...
    @property
    def undo(self) -> str | None: ...
    @property
    def undone(self) -> Sequence[str]: ...


class DefinitionLike(Protocol):
    """An announced definition (`events.catalog.DefinitionAnnouncement`), as far as placing needs it.

    `correlate` names every event type whose record key is not the saga's key.
    """

    @property
    def type(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def namespace(self) -> str: ...
    @property
    def start(self) -> Sequence[str]: ...
    @property
    def correlate(self) -> Mapping[str, str]: ...
    @property
    def rerun(self) -> bool: ...
    @property
    def steps(self) -> Sequence[StepLike]: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a handler's span stands.

    Args:
        namespace: of the deployment that runs the saga.
        saga_id: the public name, with `~run` from run 2 on.
        saga_type: the part of the name before the slash.
        step: the step's name; empty directly under the saga.
        kind: "step" (its action), "comp" (its compensation) or "saga" (no step of it).
        occurrence: of the step, empty by default.
        epoch: of the trace; a `saga-traceparent` header knows better and wins.
        others: places in other sagas that the same run serves; they are linked (ruling R12).
    """

    namespace: str
    saga_id: str
    saga_type: str
    step: str = ""
    kind: Kind = "saga"
    occurrence: str = ""
    epoch: int = 0
    others: tuple[Place, ...] = ()

    @property
    def path(self) -> tuple[str, ...]:
        """The path that the parent span's id is derived from."""
        if self.kind == "step":
            return step_path(self.step, self.occurrence)
        if self.kind == "comp":
            return compensation_path(self.step, self.occurrence)
        return ROOT


class _Match(NamedTuple):
    """What one saga type says of one input type.

    `steps` may be meant, the likeliest first; `named` says that the `saga-step` header chooses among them; `by_key`
    that the saga is certain without any header.
    """

    saga_type: str
    namespace: str
    steps: tuple[tuple[str, Kind], ...]
    named: bool
    by_key: bool


class Placement:
    """Places the runs of one handler; pure, and made anew whenever a definition is announced.

    Args:
        produces: names of the event types that the handler may publish.
        definitions: all that are known, in any order; of several versions the newest that matches counts.
        namespace: assumed for a saga type that nobody announced.
    """

    def __init__(self, produces: Iterable[str], definitions: Iterable[DefinitionLike], *, namespace: str = "") -> None:
        self._produces = frozenset(produces)
        self._namespace = namespace
        self._versions: dict[str, list[DefinitionLike]] = {}
        for definition in sorted(definitions, key=lambda each: (each.type, -each.version)):
            self._versions.setdefault(definition.type, []).append(definition)
        self._matches: dict[str, dict[str, _Match]] = {}

    def place(self, envelope: Envelope) -> Place | None:
        """Say where the handling of this input stands; None where no saga is known for it.

        With a `saga-id` header it stands in that saga, and other saga types that match by key are linked (R12).
        Without one, a saga type counts only where run 1 and epoch 0 are certain (R13).
        """
        matches = self._matches_of(envelope.type)
        named = _type_of(envelope.saga_id)
        if named is not None and envelope.saga_id is not None:
            first = self._by_header(envelope, named, envelope.saga_id, matches.get(named))
            rest = [match for match in matches.values() if match.saga_type != named]
        elif matches:
            first, rest = None, list(matches.values())
        else:
            return None
        others = [_by_key(envelope, match) for match in rest if match.by_key] if envelope.key else []
        if first is None:
            if not others:
                return None
            first, *others = others
        return replace(first, others=tuple(others)) if others else first

    def step(self, envelope: Envelope) -> tuple[str, str]:
        """Give the step and occurrence of a place without all else that it says: what the headers of outputs name."""
        matches = self._matches_of(envelope.type)
        if not matches and not envelope.undoes:  # no saga knows of it
            return "", ""
        named = _type_of(envelope.saga_id)
        if named is None:
            place = self.place(envelope)
            return ("", "") if place is None else (place.step, place.occurrence)
        step, _ = _choose(matches.get(named), envelope)
        return step, _occurrence(step, envelope)

    def _by_header(self, envelope: Envelope, saga_type: str, saga_id: str, match: _Match | None) -> Place:
        name = name_with_run(saga_id, envelope.saga_run)
        namespace = match.namespace if match is not None else self._namespace_of(saga_type)
        step, kind = _choose(match, envelope)
        return Place(namespace, name, saga_type, step, kind, _occurrence(step, envelope))

    def _namespace_of(self, saga_type: str) -> str:
        known = self._versions.get(saga_type)
        return known[0].namespace if known else self._namespace

    def _matches_of(self, event_type: str) -> dict[str, _Match]:
        found = self._matches.get(event_type)
        if found is None:
            if len(self._matches) > 1_000:  # a stranger's types must not fill the memory
                self._matches.clear()
            found = self._matches[event_type] = {
                saga_type: match
                for saga_type, versions in self._versions.items()
                if (match := self._match(event_type, versions)) is not None
            }
        return found

    def _match(self, event_type: str, versions: list[DefinitionLike]) -> _Match | None:
        for definition in versions:
            steps, named = _steps_of(event_type, self._produces, definition)
            if steps:
                known = not definition.rerun and event_type not in definition.correlate
                by_key = known and event_type in _inputs_of(definition)
                return _Match(definition.type, definition.namespace, steps, named, by_key)
        return None


def _type_of(saga_id: str | None) -> str | None:
    """Give the type that a `saga-id` header names; None where the header is absent or no name."""
    if not saga_id or len(saga_id) > _MOST_NAME:
        return None
    saga_type, slash, key = saga_id.partition("/")
    return saga_type if saga_type and slash and key else None


def _by_key(envelope: Envelope, match: _Match) -> Place:
    step, kind = match.steps[0]
    return Place(match.namespace, saga_name(match.saga_type, envelope.key), match.saga_type, step, kind)


def _choose(match: _Match | None, envelope: Envelope) -> tuple[str, Kind]:
    if match is None:
        # An undo command says itself what it undoes, also where nobody announced the definition.
        return (envelope.saga_step, "comp") if envelope.undoes and envelope.saga_step else ("", "saga")
    if match.named:
        return next((each for each in match.steps if each[0] == envelope.saga_step), match.steps[0])
    return match.steps[0]


def _occurrence(step: str, envelope: Envelope) -> str:
    # An event carries the occurrence of the step that published it: it is ours only where that step is the same.
    return (envelope.saga_occurrence or "") if step and step == envelope.saga_step else ""


def _steps_of(
    event_type: str, produces: frozenset[str], definition: DefinitionLike
) -> tuple[tuple[tuple[str, Kind], ...], bool]:
    """Give the steps that may be meant, and whether the `saga-step` header chooses among them."""
    undone: tuple[tuple[str, Kind], ...] = tuple(
        (each.name, "comp") for each in definition.steps if each.undo == event_type
    )
    if undone:
        return undone, True
    sent: tuple[tuple[str, Kind], ...] = tuple(
        (each.name, "step") for each in definition.steps if each.send == event_type
    )
    if sent:
        return sent, True
    forward = [each for each in definition.steps if not produces.isdisjoint((*each.done, *each.failed))]
    # A handler that serves several steps is in the one that this input makes ready. The header of an event names the
    # step *before*, so it counts only where the input makes none ready (a second hop within one step).
    ready = [each for each in forward if event_type in _triggers_of(each, definition)]
    if forward:
        rest = [each for each in forward if each not in ready]
        return tuple((each.name, "step") for each in (*ready, *rest)), not ready
    return tuple((each.name, "comp") for each in definition.steps if not produces.isdisjoint(each.undone)), True


def _triggers_of(step: StepLike, definition: DefinitionLike) -> frozenset[str]:
    if step.follows:
        return frozenset(step.follows)
    if not step.after:  # an announcement of an older release
        return frozenset(definition.start)
    return frozenset(done for each in definition.steps if each.name in step.after for done in each.done)


def _inputs_of(definition: DefinitionLike) -> frozenset[str]:
    types = set(definition.start)
    for step in definition.steps:
        types.update(step.done, step.failed, step.undone)
        types.update(each for each in (step.send, step.undo) if each)
    return frozenset(types)
