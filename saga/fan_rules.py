"""The rules of a step that runs once per element, checked where its saga is defined."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..events.errors import DefinitionError
from ..events.event import Event
from .definition import Definition
from .elements import KEYS, Fan, is_element, item_made, item_of
from .step import DeclaredStep, Unsaid

_NEVER = {
    "pivot": "one element could pass the point of no return and another fail; make a step after it the pivot",
    "final": "a finally-step runs once; leave each= out",
    "instead_of": "an alternative runs once; put the elements into the command of one step",
}


def fan_of(
    saga: str,
    step: DeclaredStep[Any],
    declared: Mapping[str, DeclaredStep[Any]],
    definition: Definition,
    start: tuple[type[Event], ...],
) -> Fan:
    """Check a step that runs once per element, and say how its elements are found.

    Args:
        saga: the class's name, for messages.
        step: the step.
        declared: all steps.
        definition: what they make.
        start: the classes that start the saga.

    Raises:
        DefinitionError: naming the step, the field and the remedy.
    """
    options = step.options

    def wrong(option: str, problem: str, remedy: str) -> DefinitionError:
        return DefinitionError(f"{saga}, step {step.name}: {option}= {problem}; {remedy}", step=step.name)

    each, by = options.each, options.by
    assert each is not None
    if not by:
        raise wrong("by", "is missing: which field of its answers names the element?", 'write by="sku"')
    for option, remedy in _NEVER.items():
        if getattr(options, option):
            raise wrong("each", f"does not go with {option}=", remedy)
    _check_followers(step, definition, wrong)
    _check_answers(step, by, wrong)
    _check_functions(step, wrong)
    item = item_made(each) if callable(each) else _item_of_field(step, each, declared, definition, start, wrong)
    if item is None:
        raise wrong("each", "does not say what it gives", f"annotate it: def {_name(each)}(saga) -> list[Line]: ...")
    if problem := is_element(item, by):
        name = getattr(item, "__name__", str(item))
        raise wrong(
            "each", f"gives elements of type {name}, which {problem}", f"give elements that have a field {by!r}"
        )
    return Fan(step.name, each, by, item)


Wrong = Callable[[str, str, str], DefinitionError]


def _check_followers(step: DeclaredStep[Any], definition: Definition, wrong: Wrong) -> None:
    for other in definition.steps:
        if any(step.name in group for group in other.any_of):
            raise wrong("each", f"stands in any_of(...) of {other.name}", f"write after={step.name}, which joins them")
        if other.instead_of == step.name:
            raise wrong("each", f"has an alternative, {other.name}", "let the service that does one element find it")


def _check_answers(step: DeclaredStep[Any], by: str, wrong: Wrong) -> None:
    answers = (*step.done, *step.options.failed, *step.options.undone)
    commands = [each for each in (step.options.send, step.options.undo) if isinstance(each, type)]
    for cls in (*answers, *(each for each in commands if not issubclass(each, Unsaid))):
        info = cls.model_fields.get(by)
        if info is None:
            raise wrong("by", f"names a field that {cls.__name__} lacks", f"add {by!r} to it: it names the element")
        if info.annotation not in KEYS:
            raise wrong("by", f"names {cls.__name__}.{by}, which is no key", "make it a str, an int or a UUID")


def _check_functions(step: DeclaredStep[Any], wrong: Wrong) -> None:
    for option in ("send", "undo"):
        function = getattr(step.options, option)
        if not callable(function) or isinstance(function, type):
            continue
        try:
            inspect.signature(function).bind(None, None)
        except TypeError:
            raise wrong(
                option, "is a function that does not take the element", f"write def {_name(function)}(saga, element)"
            ) from None


def _item_of_field(
    step: DeclaredStep[Any],
    field: str,
    declared: Mapping[str, DeclaredStep[Any]],
    definition: Definition,
    start: tuple[type[Event], ...],
    wrong: Wrong,
) -> Any:
    """Give the element's type of a field: every event that may be asked for it has to agree."""
    before = [
        declared[name] for name in sorted(definition.ancestors[step.name]) if definition.by_name[name].each is None
    ]
    having = [cls for cls in _classes(before, start) if field in cls.model_fields]
    sure = [other.done for other in before if not other.options.optional and other.options.when is None]
    if not any(classes and all(field in cls.model_fields for cls in classes) for classes in (*sure, start)):
        lacking = ", ".join(dict.fromkeys(cls.__name__ for cls in _classes(before, start))) or "nothing"
        raise wrong(
            "each",
            f"names a field {field!r} that no event before it surely has (there is {lacking})",
            "add the field to one of them, or write a function (saga) -> list[...]",
        )
    items = {cls.__name__: item_of(cls.model_fields[field].annotation) for cls in having}
    for name, item in items.items():
        if item is None:
            raise wrong("each", f"names {name}.{field}, which is no list", "make it list[...] or tuple[..., ...]")
    if len(set(items.values())) > 1:
        raise wrong("each", f"names {field!r}, which differs between {', '.join(items)}", "give both one type")
    return next(iter(items.values()))


def _classes(steps: Iterable[DeclaredStep[Any]], start: tuple[type[Event], ...]) -> list[type[Event]]:
    return [*(cls for step in steps for cls in step.done), *start]


def _name(function: Any) -> str:
    name = getattr(function, "__name__", "function")
    return name if name.isidentifier() else "elements"
