"""Fixtures of the saga tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.saga.stage import Stage


@pytest.fixture
async def stage(store_url: str) -> AsyncIterator[Stage]:
    """A broker and a store (SQLite, then PostgreSQL); the test starts its coordinators."""
    async with Stage(store_url) as made:
        yield made


@pytest.fixture
async def sqlite_stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """The same on SQLite only, where the test owns the clock."""
    async with Stage(f"sqlite:{tmp_path_factory.mktemp('store') / 'saga.db'}") as made:
        yield made
