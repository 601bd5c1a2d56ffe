"""Fixtures of the web view's tests: one shop with its pages and one browser for a module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, sync_playwright

from choreo.events.settings import Settings, load_settings
from choreo.saga.web.app import WebView
from choreo.saga.web.visitors import Role
from tests.saga.stage import Placed, Stage
from tests.support.browser import chromium_environment, chromium_home, chromium_program
from tests.support.parts import Missing, missing
from tests.web.served import ServedShop
from tests.web.visits import Client


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedShop]:
    """A shop that runs, and its web view."""
    made = ServedShop(tmp_path_factory.mktemp("shop"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real headless browser; it ends with the module, since Playwright keeps a loop in this thread."""
    try:
        home = chromium_home()
    except Missing as reason:
        missing("Chromium", str(reason))
    scratch: Path = tmp_path_factory.mktemp("browser")
    with sync_playwright() as playwright:
        # The tests may run as root, where its own sandbox does not work; it opens our pages only.
        launched = playwright.chromium.launch(
            executable_path=chromium_program(home), env=dict(chromium_environment(home, scratch)), args=["--no-sandbox"]
        )
        yield launched
        launched.close()


@pytest.fixture
async def sqlite_stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A broker, a store and coordinators within the test."""
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}") as made:
        yield made


@pytest.fixture
async def stage(store_url: str) -> AsyncIterator[Stage]:
    """The same on SQLite, then on PostgreSQL."""
    async with Stage(store_url) as made:
        yield made


@pytest.fixture
async def client(sqlite_stage: Stage) -> AsyncIterator[Client]:
    """Give clients of web views of one stage: `await client(local=Role.ADMIN)`, or with settings."""
    await sqlite_stage.start()
    await sqlite_stage.publish(Placed(order_id="7"))
    await sqlite_stage.until(lambda found: len(found) == 1)
    async with AsyncExitStack() as stack:

        async def make(
            address: str = "127.0.0.1",
            local: Role | None = None,
            hosts: Any = ("127.0.0.1",),
            broker: str = "memory:",
            **settings: Any,
        ) -> httpx.AsyncClient:
            told: Settings = load_settings(store=sqlite_stage.url, broker=broker, **settings)
            view = await stack.enter_async_context(WebView(told, hosts=hosts, local=local))
            transport = httpx.ASGITransport(view, client=(address, 4711))
            return await stack.enter_async_context(
                httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers={"accept": "text/html"})
            )

        yield make
