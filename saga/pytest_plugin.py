"""The pytest plugin: `--choreo-seeds`, `--choreo-seed` and the fixture `harness`.

pytest loads it in every project of an environment in which choreo is installed, so it imports nothing but pytest until
somebody asks for something.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

import pytest

from . import asked

if TYPE_CHECKING:
    from collections.abc import Callable

    from .testing import Harness


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the options."""
    group = parser.getgroup("choreo", "choreo")
    group.addoption(
        "--choreo-seeds",
        type=int,
        metavar="N",
        help="make N runs in each exploration that says how many (explore(..., seeds=100))",
    )
    group.addoption("--choreo-seed", metavar="SEED", help="make this run only: what a failed exploration has printed")


def pytest_configure(config: pytest.Config) -> None:
    """Take note of what was asked for."""
    runs = config.getoption("--choreo-seeds")
    if runs is not None and runs < 1:
        raise pytest.UsageError(f"--choreo-seeds={runs}: at least one run")
    asked.runs, asked.seed = runs, config.getoption("--choreo-seed")
    if asked.seed is not None:
        from ..events.errors import ConfigurationError
        from .testing import Seed

        try:
            Seed(asked.seed)
        except ConfigurationError as error:
            raise pytest.UsageError(f"--choreo-seed: {error.message}") from None


def pytest_unconfigure() -> None:
    """Forget it."""
    asked.runs = asked.seed = None


@pytest.fixture
def harness() -> Callable[..., Harness]:
    """Make harnesses: `async with harness(desk, Booking) as hotel`.

    An async test that takes it needs no other plugin and no mark.
    """
    from .testing import Harness

    return Harness


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an async test that takes `harness`, where nobody else does: who has a loop for it has wrapped it by now."""
    if "harness" not in pyfuncitem.fixturenames or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    if pyfuncitem.get_closest_marker("anyio") is not None:
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True
