"""How often a generator may yield is read from its source, path by path."""

from __future__ import annotations

import pytest

from choreo.services.yields import most_yields

# ruff: noqa: F821


async def _once():
    async with opened() as value:
        try:
            yield value
        finally:
            await value.close()


async def _either(fast):
    if fast:
        yield 1
    else:
        yield 2


async def _returns(fast):
    if fast:
        yield 1
        return
    yield 2


async def _around_another():
    async for each in another():
        yield each


async def _inner():
    def helper():
        yield 1
        yield 2

    yield helper


async def _caught():
    try:
        value = await connect()
    except OSError:
        value = None
    yield value


def _raises():
    yield 1
    raise RuntimeError


async def _in_a_row():
    yield 1
    await flush()
    yield 2


async def _in_the_end():
    try:
        yield 1
    finally:
        yield 2


async def _after_a_choice(fast):
    if fast:
        yield 1
    yield 2


async def _in_match(kind):
    match kind:
        case "a":
            yield 1
        case _:
            yield 2
    yield 3


def _in_one_statement():
    print((yield 1), (yield 2))


def _both_ways_left(fast):
    if fast:
        yield 1
        return
    else:
        yield 2
        raise ValueError
    yield 3


@pytest.mark.parametrize(
    "function", [_once, _either, _returns, _around_another, _inner, _caught, _raises, _both_ways_left]
)
def test_one_yield_on_every_path_is_one(function):
    assert most_yields(function) == 1


@pytest.mark.parametrize("function", [_in_a_row, _in_the_end, _after_a_choice, _in_match, _in_one_statement])
def test_two_yields_on_one_path_are_two(function):
    assert most_yields(function) == 2


def test_what_has_no_source_is_not_counted():
    names: dict = {}
    exec("async def made():\n    yield 1\n    yield 2\n", names)
    assert most_yields(names["made"]) is None
    assert most_yields(lambda: (yield 1)) is None
