"""What a saga class says of the saga as a whole, and whether that can work: cancel, policies, lock, schedule."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType

from pydantic import ValidationError

from ..events.errors import DefinitionError
from ..events.event import Event
from ..events.secret import holds_secret
from .definition import Definition
from .lock import LockPlan
from .names import is_saga_type
from .policy import Policy
from .schedule import Schedule, tick_name

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SOME_TICK = 1_767_225_600_000_000


@dataclass(frozen=True)
class Terms:
    """The arguments of a saga class that speak of the saga as a whole, as they were given.

    Args:
        cancel: event classes that cancel it.
        policies: what to do with events that come in vain.
        lock: what it holds while it runs.
        schedule: when it starts by the clock.
        tags: what people search by.
        max_open: how many instances may be open at a time.
    """

    cancel: tuple[type[Event], ...] = ()
    policies: Mapping[type[Event], Policy] = field(default_factory=dict)
    lock: LockPlan | None = None
    schedule: Schedule | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    max_open: int | None = None

    def of(self, definition: Definition) -> Definition:
        """Give a definition, which has `cancel` already, with the other terms."""
        return replace(
            definition,
            policies={cls.spec().type: policy for cls, policy in self.policies.items()},
            lock=None if self.lock is None else replace(self.lock, name=self.lock.name or definition.type),
            schedule=None if self.schedule is None else self.schedule.plan,
            tags=dict(self.tags),
            max_open=self.max_open,
        )

    def check(self, name: str, definition: Definition, start: Sequence[type[Event]]) -> None:
        """Refuse what could not work.

        Args:
            name: of the saga class.
            definition: without the terms.
            start: its start events.

        Raises:
            DefinitionError: naming the argument, what is wrong, and what to write instead.
        """
        self._check_policies(name, definition)
        self._check_tags(name)
        self._check_max_open(name)
        if self.lock is not None:
            self._check_lock(name, self.lock, start)
        if self.schedule is not None:
            self._check_schedule(name, self.schedule, definition, start)

    def _check_max_open(self, name: str) -> None:
        most = self.max_open
        if most is None:
            return
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise DefinitionError(f"{name}: max_open={most!r}; write how many sagas may be open at a time, at least 1")
        if self.lock is not None:
            raise DefinitionError(
                f"{name}: max_open= and lock= do not go together: a saga that waits to start could hold a lock that an "
                "open one waits for; leave out one of them"
            )

    def _check_policies(self, name: str, definition: Definition) -> None:
        for cls, policy in self.policies.items():
            if not (isinstance(cls, type) and issubclass(cls, Event)) or cls.spec().type not in definition.consumed:
                known = ", ".join(sorted(definition.consumed))
                raise DefinitionError(
                    f"{name}: policies= speaks of {getattr(cls, '__name__', repr(cls))}, which is no event of this "
                    f"saga; it has {known}"
                )
            if not isinstance(policy, Policy):
                raise DefinitionError(
                    f'{name}: policies={{{cls.__name__}: {policy!r}}}; write {cls.__name__}: policy(late="ask")'
                )

    def _check_tags(self, name: str) -> None:
        for key, value in self.tags.items():
            if not isinstance(key, str) or not _TAG.fullmatch(key) or not isinstance(value, str) or not value:
                raise DefinitionError(
                    f"{name}: tags={{{key!r}: {value!r}}}; write names of letters, digits, '.', '_' and '-' with "
                    'texts, as in tags={"team": "checkout"}'
                )

    def _check_lock(self, name: str, lock: LockPlan, start: Sequence[type[Event]]) -> None:
        if not isinstance(lock, LockPlan):
            raise DefinitionError(f'{name}: lock={lock!r}; write lock=lock("customer_id")')
        if lock.name and not is_saga_type(lock.name):
            raise DefinitionError(
                f'{name}: lock(name={lock.name!r}); use lower-case words with "-", as in name="customer"'
            )
        for cls in start:
            info = cls.model_fields.get(lock.field)
            if holds_secret(cls, lock.field):
                raise DefinitionError(
                    f"{name}: lock({lock.field!r}): {cls.__name__}.{lock.field} is secret, and `saga locks` would show "
                    "it; lock on another field"
                )
            if info is None:
                raise DefinitionError(
                    f"{name}: lock({lock.field!r}): the start event {cls.__name__} has no such field; "
                    f"it has {', '.join(cls.model_fields)}"
                )
            if info.annotation is NoneType or NoneType in typing.get_args(info.annotation):
                raise DefinitionError(
                    f"{name}: lock({lock.field!r}): {cls.__name__}.{lock.field} may be None, which locks nothing; "
                    "lock on a field that always has a value"
                )

    def _check_schedule(
        self, name: str, schedule: Schedule, definition: Definition, start: Sequence[type[Event]]
    ) -> None:
        if not isinstance(schedule, Schedule):
            raise DefinitionError(
                f'{name}: schedule={schedule!r}; write schedule=cron("0 2 * * *", tz="Europe/Berlin")'
            )
        if definition.observe_only:
            raise DefinitionError(f"{name}: schedule= starts sagas, but observe_only=True never sends; leave out one")
        if schedule.start is not None:
            made = _made_by(schedule.start)
            if made is not None and made not in start:
                raise DefinitionError(
                    f"{name}: cron(start=...) makes {getattr(made, '__name__', made)}, which does not start this saga; "
                    f"make {' or '.join(cls.__name__ for cls in start)}"
                )
            return
        if len(start) > 1:
            raise DefinitionError(
                f"{name}: schedule= starts it by which of {', '.join(cls.__name__ for cls in start)}? "
                f"write cron(..., start=function), a function (tick) -> {start[0].__name__}"
            )
        field = definition.key_field(definition.start[0])
        if field is None:
            raise DefinitionError(
                f"{name}: schedule= starts it by an event, but correlate= says that the key of {start[0].__name__} "
                "stands in no field of it; start it by another event"
            )
        keys = {start[0].spec().key, field}
        try:
            start[0].model_validate(dict.fromkeys(keys, tick_name(_SOME_TICK)))
        except ValidationError as error:
            field_name = ".".join(str(part) for part in error.errors(include_input=False, include_url=False)[0]["loc"])
            raise DefinitionError(
                f"{name}: schedule= cannot fill {start[0].__name__}.{field_name} from a tick; give it a default, "
                f"or write cron(..., start=function), a function (tick) -> {start[0].__name__}"
            ) from None


def _made_by(function: object) -> object | None:
    try:
        return typing.get_type_hints(function).get("return")
    except (NameError, TypeError):
        return None
