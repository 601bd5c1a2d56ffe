"""The desk of a person who asks why, on the embedded broker and on a real Kafka."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import structlog

from choreo.events.settings import load_settings
from tests.e2e.stuck.desk import Desk
from tests.support.console import Console


@pytest.fixture(params=["local", pytest.param("kafka", marks=pytest.mark.kafka)])
async def desk(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Desk]:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    broker = f"local:{tmp_path / 'broker.db'}"
    if request.param == "kafka":
        broker = f"kafka://{request.getfixturevalue('kafka_bootstrap')}"
    chosen = {
        "CHOREO_HOME": str(tmp_path),
        "CHOREO_BROKER": broker,
        "CHOREO_TOPIC_PREFIX": f"{tmp_path.parent.name}.{tmp_path.name}.",
    }
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    async with AsyncExitStack() as stack:
        stack.callback(structlog.reset_defaults)
        yield Desk(load_settings(), Console(capsys, tmp_path), stack)
