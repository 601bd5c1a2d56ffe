"""How often a generator may yield in one run, as its source says: what gives a value for a while yields it once."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

_ELSEWHERE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_ENDS = (ast.Return, ast.Raise, ast.Break, ast.Continue)


class _Most(NamedTuple):
    through: int | None
    """Yields of the paths that reach the end; None where none does."""
    ended: int
    """Yields of the paths that return, raise or leave a loop."""


def most_yields(function: Callable[..., Any]) -> int | None:
    """Count the yields on the longest path through a generator; a loop's body counts once.

    Returns:
        None where its source is not to be had.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    found = next((each for each in tree.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))), None)
    if found is None:
        return None
    most = _block(found.body)
    return max(most.through or 0, most.ended)


def _block(body: Iterable[ast.stmt]) -> _Most:
    through = ended = 0
    for statement in body:
        most = _statement(statement)
        ended = max(ended, through + most.ended)
        if most.through is None:
            return _Most(None, ended)
        through += most.through
    return _Most(through, ended)


def _statement(statement: ast.stmt) -> _Most:
    if isinstance(statement, _ELSEWHERE):
        return _Most(0, 0)
    if isinstance(statement, _ENDS):
        return _Most(None, _within(statement))
    if isinstance(statement, ast.If):
        return _after(_within(statement.test), _either(_block(statement.body), _block(statement.orelse)))
    if isinstance(statement, ast.Match):
        return _either(_Most(0, 0), *(_block(case.body) for case in statement.cases))
    if isinstance(statement, (ast.With, ast.AsyncWith)):
        return _after(sum(_within(item.context_expr) for item in statement.items), _block(statement.body))
    if isinstance(statement, (ast.For, ast.AsyncFor, ast.While)):
        once = _block(statement.body)
        return _Most(max(once.through or 0, once.ended), once.ended)
    if isinstance(statement, (ast.Try, ast.TryStar)):
        tried = _either(
            _block([*statement.body, *statement.orelse]), *(_block(each.body) for each in statement.handlers)
        )
        last = _block(statement.finalbody)
        if last.through is None:
            return _Most(None, max(tried.through or 0, tried.ended) + last.ended)
        through = None if tried.through is None else tried.through + last.through
        return _Most(through, tried.ended + last.through)
    return _Most(_within(statement), 0)


def _either(*ways: _Most) -> _Most:
    through = [way.through for way in ways if way.through is not None]
    return _Most(max(through, default=None), max(way.ended for way in ways))


def _after(count: int, most: _Most) -> _Most:
    return _Most(None if most.through is None else most.through + count, most.ended + count)


def _within(node: ast.AST) -> int:
    if isinstance(node, (ast.Yield, ast.YieldFrom)):
        return 1 + sum(_within(child) for child in ast.iter_child_nodes(node))
    return sum(_within(child) for child in ast.iter_child_nodes(node) if not isinstance(child, _ELSEWHERE))
