"""Turn a saga class into its definition, and refuse what could not work, with step, field and remedy."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from types import NoneType
from typing import Any, Protocol, TypeAlias

from pydantic import BaseModel

from ..events.clock import SECOND, duration
from ..events.errors import DefinitionError
from ..events.event import Event
from ..events.foreign import Field, Header
from ..events.secret import holds_secret, is_secret
from ..services.retry import Retry
from .certain import Told, told_at_the_end, told_before
from .child import fitted
from .definition import RESEND_FIRST, RESEND_MOST, UNDO_RETRY, Definition, RetryPlan, StepPlan, Unmatched
from .elements import Fan
from .fan_rules import fan_of
from .graph_rules import check_graph
from .hints import returned
from .instance import Question
from .names import is_saga_type
from .outcomes import OUTCOMES, UndoSaga
from .schedule import StartAt
from .step import AnyBuild, AnyOf, Build, DeclaredStep, Unsaid
from .terms import Terms

Correlation: TypeAlias = "str | Header | Field | Callable[[Any], str]"
"""Where the key of a saga stands: a field of the event, a header, a field of the value, or a function of the event."""


class Facts(Protocol):
    """The events of one saga, decoded when somebody asks."""

    @property
    def key(self) -> str:
        """The saga's business key."""

    def start(self) -> Event:
        """Give the event that started it."""

    def done(self, step: str) -> Event | None:
        """Give the event that told a step's success, None before it."""

    def every(self, step: str) -> list[Event]:
        """Give the events that told the success of a step's occurrences so far, in the order of the elements."""


@dataclass(frozen=True)
class Declaration:
    """A saga class as the coordinator needs it.

    Args:
        definition: as data.
        events: every event class that it names, by type.
        builds: how commands and end events are made, by event type: None fills the class by name.
        asks: functions of the user that decide something, by step and what they are asked.
        fans: how the elements of steps that run once per element are found, by step.
        view: makes the view on one saga's events that these functions get: the saga class itself.
        tick: makes the start event of a tick of the schedule; None fills it by itself.
        correlators: functions of the user that tell the saga's key from an event, by event type.
    """

    definition: Definition
    events: Mapping[str, type[Event]]
    builds: Mapping[str, Callable[..., Event] | None]
    view: Callable[[Facts], Any]
    asks: Mapping[tuple[str, Question], Callable[[Any], Any]] = field(default_factory=dict)
    tick: StartAt | None = None
    fans: Mapping[str, Fan] = field(default_factory=dict)
    correlators: Mapping[str, Callable[[Any], str]] = field(default_factory=dict)

    def observing(self) -> Declaration:
        """Give the same, but tracking only."""
        return replace(self, definition=replace(self.definition, observe_only=True))


def declare(
    view: Callable[[Facts], Any],
    name: str,
    declared: Sequence[DeclaredStep[Any]],
    *,
    reserved: Sequence[str],
    start: tuple[type[Event], ...],
    key: str,
    type_: str,
    version: int,
    deadline: int | None,
    ends: Mapping[str, Build | None],
    correlate: Mapping[type[Event], Correlation],
    observe_only: bool,
    active_from: str | int,
    rerun: bool,
    unmatched: Unmatched,
    terms: Terms,
) -> Declaration:
    """Check a declaration and make its definition.

    Raises:
        DefinitionError: naming the saga, the step, the field and the remedy.
    """
    if reserved:
        raise DefinitionError(f"{name}: {reserved[0]!r} is a name that Saga uses itself; call the step something else")
    if not start:
        raise DefinitionError(f"{name}: which event starts it? write class {name}(Saga, start=OrderPlaced, key=...)")
    if not key:
        raise DefinitionError(f'{name}: which field is the business key? write class {name}(Saga, ..., key="order_id")')
    if not declared:
        raise DefinitionError(f"{name}: it has no steps; declare one with step(done=...)")
    if not is_saga_type(type_):
        raise DefinitionError(
            f'{name}: {type_!r} is not a saga type; use lower-case words with "-", e.g. type="order-fulfilment"'
        )
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise DefinitionError(f"{name}: version={version!r}; give a whole number of at least 1")
    return _Declaring(name, declared, start, key, correlate, observe_only, terms).declaration(
        view,
        type_=type_,
        version=version,
        deadline=deadline,
        ends=ends,
        active_from=active_from,
        rerun=rerun,
        unmatched=unmatched,
    )


class _Declaring:
    """One declaration being checked."""

    def __init__(
        self,
        name: str,
        declared: Sequence[DeclaredStep[Any]],
        start: tuple[type[Event], ...],
        key: str,
        correlate: Mapping[type[Event], Correlation],
        observe_only: bool,
        terms: Terms,
    ) -> None:
        self.name = name
        self.declared = {step.name: step for step in declared}
        self.start = start
        self.key = key
        self.correlate = correlate
        self.observe_only = observe_only
        self.terms = terms
        self.events: dict[str, type[Event]] = {}
        self.builds: dict[str, Callable[..., Event] | None] = {}
        self.asks: dict[tuple[str, Question], Callable[[Any], Any]] = {}
        self.fans: dict[str, Fan] = {}

    def declaration(
        self, view: Callable[[Facts], Any], *, ends: Mapping[str, Build | None], type_: str, **options: Any
    ) -> Declaration:
        steps = tuple(self._plan(index, step) for index, step in enumerate(self.declared.values()))
        definition = Definition(
            type=type_,
            key=self.key,
            start=tuple(self._consume(cls, "start") for cls in self.start),
            steps=steps,
            completed=self._built(ends["completed"], "completed"),
            compensated=self._built(ends["compensated"], "compensated"),
            topics={},
            correlate={},
            observe_only=self.observe_only,
            cancel=tuple(self._consume(cls, "cancel") for cls in self.terms.cancel),
            **options,
        )
        definition = replace(
            definition,
            topics={type_: cls.spec().topic for type_, cls in sorted(self.events.items())},
            correlate=self._correlated(definition),
        )
        definition = fitted(definition)
        check_graph(self.name, definition, self.declared)
        self._check_roles(definition)
        for declared in self.declared.values():
            if declared.options.each is not None:
                self.fans[declared.name] = fan_of(self.name, declared, self.declared, definition, self.start)
        self._check_fields(definition)
        self.terms.check(self.name, definition, self.start)
        tick = self.terms.schedule.start if self.terms.schedule is not None else None
        called = {cls.spec().type: each for cls, each in self.correlate.items() if callable(each)}
        correlators = {type_: each for type_, each in called.items() if type_ in definition.consumed}
        return Declaration(
            self.terms.of(definition), self.events, self.builds, view, self.asks, tick, self.fans, correlators
        )

    def _plan(self, index: int, step: DeclaredStep[Any]) -> StepPlan:
        options = step.options
        if options.by is not None and options.each is None:
            raise self._wrong(step.name, "by", "names the element of each=, which is missing", 'add each="lines"')
        after, groups = self._before(step)
        if options.when is not None:
            self.asks[step.name, "when"] = options.when
        waits = bool(step.done) or options.approval is not None
        if options.within is None and waits:
            raise self._wrong(step.name, "within", "is missing, and every wait needs a limit", 'write within="30s"')
        within = 0 if options.within is None else duration(options.within)
        undo_within = duration(options.undo_within)
        undo = self._undo(step)
        retry = _plan_of(options.retry) or RetryPlan()
        undo_retry = _plan_of(options.undo_retry) or UNDO_RETRY
        if options.retry is not None and options.send is None:
            raise self._wrong(
                step.name, "retry", "is for commanded steps", "add send=, or leave retry= to the service's handler"
            )
        return StepPlan(
            name=step.name,
            index=index,
            done=tuple(self._consume(cls, f"step {step.name}: done") for cls in step.done),
            failed=tuple(self._consume(cls, f"step {step.name}: failed") for cls in options.failed),
            after=after,
            any_of=groups,
            when=options.when is not None,
            instead_of=next((self._own(step, "instead_of", other) for other in options.instead_of), None),
            final=options.final,
            each=_label(step),
            by=options.by,
            within=within,
            send=self._built(options.send, f"step {step.name}: send"),
            undo=undo,
            undone=tuple(self._consume(cls, f"step {step.name}: undone") for cls in options.undone),
            retry=retry,
            resend=_resend(retry, within),
            undo_retry=undo_retry,
            undo_resend=_resend(undo_retry, undo_within),
            undo_within=undo_within,
            pivot=options.pivot,
            optional=options.optional,
            approval=options.approval,
            due=self._due(step),
            child=options.child,
        )

    def _due(self, step: DeclaredStep[Any]) -> str | None:
        due = step.options.due
        if due is None:
            return None
        if not isinstance(due, str):
            self.asks[step.name, "due"] = due
            return str(getattr(due, "__name__", "a function"))
        for cls in self.start:
            info = cls.model_fields.get(due)
            if info is None or not {datetime, date} & set(_options(info.annotation)):
                raise self._wrong(
                    step.name,
                    "due",
                    f"names {due!r}, which is no datetime or date of {cls.__name__}",
                    f"add such a field to {cls.__name__}, or write a function of the saga",
                )
        self.asks[step.name, "due"] = lambda saga: getattr(saga.started, due)
        return due

    def _before(self, step: DeclaredStep[Any]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        """Give the names of the steps that must all come before it, and the groups of which one is enough."""
        after: list[str] = []
        groups: list[tuple[str, ...]] = []
        for earlier in step.options.after:
            if isinstance(earlier, AnyOf):
                groups.append(tuple(self._own(step, "after", member) for member in earlier.members))
            else:
                after.append(self._own(step, "after", earlier))
        return tuple(after), tuple(groups)

    def _own(self, step: DeclaredStep[Any], option: str, other: DeclaredStep[Any] | AnyOf) -> str:
        if isinstance(other, AnyOf):
            raise self._wrong(
                step.name, option, "has any_of(...) within any_of(...)", "write one any_of(...) with all the steps"
            )
        if self.declared.get(other.name) is not other:
            raise self._wrong(step.name, option, f"names {other!r} of another saga", "name a step of this class")
        return other.name

    def _undo(self, step: DeclaredStep[Any]) -> str | None:
        undo = step.options.undo
        if isinstance(undo, Unsaid):
            undo = None
        if undo is None:
            if step.options.undone:
                raise self._wrong(step.name, "undone", "answers an undo that is not declared", "add undo=")
            return None
        if not step.options.undone:
            raise self._wrong(
                step.name, "undone", "is missing: each undo waits for its answer", "name the event that answers it"
            )
        return self._built(undo, f"step {step.name}: undo")

    def _consume(self, cls: type[Event], role: str) -> str:
        type_ = self._register(cls, role)
        if type_ in OUTCOMES:  # keyed like this saga, whatever its key is called
            return type_
        field = self.correlate.get(cls, self.key)
        if isinstance(field, str) and field not in cls.model_fields:
            raise DefinitionError(
                f"{self.name}, {role}: {cls.__name__} has no field {field!r} to tell which saga it belongs to; "
                f'add the field, or say correlate={{{cls.__name__}: "its_key_field"}}'
            )
        if isinstance(field, str) and holds_secret(cls, field):
            raise DefinitionError(
                f"{self.name}, {role}: {cls.__name__}.{field} is secret, and the saga's name would show it; "
                "take another field"
            )
        return type_

    def _register(self, cls: type[Event], role: str) -> str:
        if not (isinstance(cls, type) and issubclass(cls, Event)):
            raise DefinitionError(f"{self.name}, {role}: {cls!r} is not an event class; derive it from Event")
        type_ = cls.spec().type
        if self.events.setdefault(type_, cls) is not cls:
            raise DefinitionError(
                f'{self.name}, {role}: two classes have the event type {type_!r}; give one of them type="..."'
            )
        return type_

    def _built(self, build: AnyBuild | None, role: str) -> str | None:
        if build is None:
            return None
        if isinstance(build, type):
            type_ = self._register(build, role)
            self.builds.setdefault(type_, None)
            return type_
        made = returned(build)
        if not (isinstance(made, type) and issubclass(made, Event)):
            raise DefinitionError(
                f"{self.name}, {role}: say what the function makes: def undo(saga) -> ReleaseStock: ..."
            )
        type_ = self._register(made, role)
        if self.builds.setdefault(type_, build) is not build:
            raise DefinitionError(f"{self.name}, {role}: {type_} is made in two ways; use one event class for each")
        return type_

    def _correlated(self, definition: Definition) -> dict[str, str]:
        """Keep only the classes whose field is not the record's key: for these the record must be looked into."""
        found = {}
        for type_ in sorted(definition.consumed):
            if type_ in OUTCOMES:
                continue
            cls = self.events[type_]
            source, key = self.correlate.get(cls, self.key), cls.spec().key
            if isinstance(source, Header):
                found[type_] = f"header:{source.name}"
            elif isinstance(source, Field):
                found[type_] = source.path
            elif not isinstance(source, str):
                found[type_] = f"call:{getattr(source, '__name__', type(source).__name__)}"
            elif source != key:
                found[type_] = source
            elif cls.spec().foreign is not None:  # others may choose its partition in another way than we do
                found[type_] = f"key:{key}"
        return found

    def _check_roles(self, definition: Definition) -> None:
        roles: dict[str, str] = {}
        for role, types in self._roles(definition):
            for type_ in types:
                kind = role.partition(" of ")[0]
                known = roles.setdefault(type_, role)
                if known != role and not (
                    kind == known.partition(" of ")[0] and kind in ("failure", "answer to the undo")
                ):
                    raise DefinitionError(
                        f"{self.name}: {type_} is the {known} and the {role}; "
                        "one event must tell one thing: use two classes"
                    )

    def _roles(self, definition: Definition) -> Iterable[tuple[str, tuple[str, ...]]]:
        yield "start", definition.start
        yield "cancel event", definition.cancel
        for step in definition.steps:
            if step.child is not None:  # the header tells children apart
                continue
            yield f"success of {step.name}", step.done
            yield f"failure of {step.name}", step.failed
            yield f"answer to the undo of {step.name}", step.undone

    def _check_fields(self, definition: Definition) -> None:
        for step in definition.steps:
            sure = told_before(definition, step)
            fan = self.fans.get(step.name)
            if step.undo is not None:
                self._check_built(step.undo, f"step {step.name}: undo", sure, maybe=step.name, fan=fan)
            if step.send is not None:
                self._check_built(step.send, f"step {step.name}: send", sure, maybe=None, fan=fan)
        for role in ("completed", "compensated"):
            type_ = getattr(definition, role)
            if type_ is not None:
                sure = told_at_the_end(definition) if role == "completed" else []
                self._check_built(type_, role, sure, maybe=None)

    def _check_built(
        self, type_: str, role: str, sure: Iterable[Told], *, maybe: str | None, fan: Fan | None = None
    ) -> None:
        """Every field that an event needs must come from events that are there whenever it is built."""
        if self.builds[type_] is not None or type_ == UndoSaga.spec().type:
            return
        cls = self.events[type_]
        told = (tuple(done for name in names for done in self.declared[name].done) for names in sure)
        sources: list[tuple[type[BaseModel], ...]] = [*told, self.start]
        if fan is not None and not fan.plain:
            sources.append((fan.item,))
        for name, info in cls.model_fields.items():
            if name in (cls.spec().key, self.key, fan.by if fan is not None else "") or not info.is_required():
                continue
            if not any(all(name in source.model_fields for source in classes) for classes in sources):
                where = f"{self.name}, {role}: {type_}.{name} cannot be filled"
                if maybe is not None and any(name in source.model_fields for source in self.declared[maybe].done):
                    raise DefinitionError(
                        f"{where} when the outcome of {maybe} is unknown, because only its own event has it; "
                        f"give {type_}.{name} a default, or write a function (saga) -> {type_}"
                    )
                raise DefinitionError(
                    f"{where}: no event that has surely happened by then has such a field; add it to one of them, "
                    f"give it a default, or write a function (saga) -> {type_}"
                )
            self._check_types(cls, name, f"{self.name}, {role}", fan)

    def _check_types(self, cls: type[Event], field: str, where: str, fan: Fan | None) -> None:
        wanted = cls.model_fields[field].annotation
        own: tuple[type[BaseModel], ...] = () if fan is None or fan.plain else (fan.item,)
        for source in (*own, *self.start, *(done for step in self.declared.values() for done in step.done)):
            info = source.model_fields.get(field)
            if info is not None and not _fits(info.annotation, wanted):
                raise DefinitionError(
                    f"{where}: {source.__name__}.{field} is {_type_name(info.annotation)}, "
                    f"{cls.__name__}.{field} wants {_type_name(wanted)}; give both one type, "
                    f"or write a function (saga) -> {cls.__name__}"
                )

    def _wrong(self, step: str, option: str, problem: str, remedy: str) -> DefinitionError:
        return DefinitionError(f"{self.name}, step {step}: {option}= {problem}; {remedy}", step=step)


def _fits(given: Any, wanted: Any) -> bool:
    return (
        given == wanted
        or given in typing.get_args(wanted)
        or set(_options(given)) - {NoneType} == set(_options(wanted)) - {NoneType}
    )


def _options(annotation: Any) -> tuple[Any, ...]:
    return (annotation,) if is_secret(annotation) else typing.get_args(annotation) or (annotation,)


def _type_name(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)


def _label(step: DeclaredStep[Any]) -> str | None:
    """Say what the elements of a step are called, for people."""
    each = step.options.each
    return each if each is None or isinstance(each, str) else getattr(each, "__name__", "elements")


def _plan_of(retry: Retry | None) -> RetryPlan | None:
    return None if retry is None else RetryPlan(retry.attempts, duration(retry.first), duration(retry.most))


def _resend(retry: RetryPlan, within: int) -> RetryPlan:
    """Silence is usually a slow or absent service: asking again sooner than a fair share of the limit helps nobody."""
    first = max(retry.first, min(RESEND_FIRST, within // 4), SECOND // 10)
    return RetryPlan(retry.attempts, first, max(retry.most, RESEND_MOST))
