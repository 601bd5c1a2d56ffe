"""Our programs run on uvloop where somebody has installed it, and without it where nobody has."""

from __future__ import annotations

import asyncio
import sys

import pytest

from choreo.events import loops


async def _loop() -> str:
    return type(asyncio.get_running_loop()).__module__


def test_programs_run_on_uvloop_where_it_is_installed() -> None:
    assert loops.run(_loop()).startswith("uvloop")


def test_programs_run_on_asyncio_where_uvloop_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loops.run(_loop()).startswith("asyncio")
