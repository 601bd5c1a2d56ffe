"""What a user's function says that it gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def returned(function: Callable[..., Any]) -> Any:
    """Give the return annotation of a function, resolved by itself: its parameters may name the saga being defined.

    Returns:
        The annotation; as text where it cannot be resolved, `inspect.Signature.empty` where there is none.
    """
    annotation = inspect.signature(function).return_annotation
    if not isinstance(annotation, str):
        return annotation
    target = inspect.unwrap(function)
    names = {**getattr(target, "__globals__", {}), **inspect.getclosurevars(target).nonlocals}
    try:
        return eval(annotation, names)  # noqa: S307 - the author's own code, as typing does
    except Exception:
        return annotation
