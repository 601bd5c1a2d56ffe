"""Fixtures of the services' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from choreo.events.local import LocalBroker
from choreo.events.memory import MemoryBroker
from choreo.events.settings import Settings
from choreo.events.transport import Transport
from tests.services.shop import Rig


@pytest.fixture(autouse=True)
def _short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop waits for the poll under way, and hundreds of tests stop a worker."""
    monkeypatch.setattr("choreo.services.worker._POLL", 0.03)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A rig on a memory broker."""
    async with MemoryBroker() as broker:
        found = Rig(broker, Settings(home=tmp_path))
        await found.prepare()
        yield found


@pytest.fixture(params=["memory", "local"])
async def any_rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """A rig on each embedded broker."""
    broker: Transport = MemoryBroker() if request.param == "memory" else LocalBroker(tmp_path / "broker.db")
    async with broker:
        found = Rig(broker, Settings(home=tmp_path))
        await found.prepare()
        yield found


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A SQLite store's URL."""
    return f"sqlite:{tmp_path / 'service.db'}"
