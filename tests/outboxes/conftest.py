"""Fixtures of the outbox of existing systems."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from choreo import Outbox
from tests.outboxes.system import System


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def backend(request: pytest.FixtureRequest) -> str:
    """The kind of the database: the test runs once with each."""
    return str(request.param)


@pytest.fixture
def system_url(request: pytest.FixtureRequest, backend: str, tmp_path: Path) -> str:
    """The URL of a fresh database."""
    if backend == "sqlite":
        return f"sqlite:{tmp_path / 'shop.db'}"
    return str(request.getfixturevalue(f"{backend}_url"))


@pytest.fixture
async def system(system_url: str) -> AsyncIterator[System]:
    """An existing system with an outbox."""
    system = await System.make(system_url)
    yield system
    await system.database.close()


@pytest.fixture
def outbox() -> Outbox:
    """The system's."""
    return Outbox(source="shop")
