"""Fixtures of the tracing tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from choreo.events.settings import Settings
from tests.support.otlp import OtlpSink


@pytest.fixture(autouse=True)
def no_telemetry_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test says itself which `OTEL_*` variables are set."""
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpSink]:
    """An OTLP endpoint that the environment points to."""
    with OtlpSink() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        yield sink


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a run in memory, with a home of its own."""
    return Settings(home=tmp_path, broker="memory:", namespace="shop")
