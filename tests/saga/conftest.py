"""Fixtures of the saga tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.saga import shelf
from tests.saga.stage import Stage
from tests.support.console import Console


@pytest.fixture(scope="session")
def shelf_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder whose store has sagas in every state."""
    home = tmp_path_factory.mktemp("shelf")
    asyncio.run(shelf.fill(home))
    return home


@pytest.fixture
def looking(shelf_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    """The command line over that store; nothing of this process's environment reaches it."""
    return _bare(shelf_home, capsys, monkeypatch)


@pytest.fixture
def at_home(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    """The command line over the test's own folder, where it may put a store."""
    return _bare(tmp_path, capsys, monkeypatch)


def _bare(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "PAGER", "SAGA_PAGER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHOREO_HOME", str(home))
    return Console(capsys, home)


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
