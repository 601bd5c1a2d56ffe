"""The web view in a real browser: by mouse and by keyboard, live, and with what ill-willed people send."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from choreo.saga.names import saga_id
from tests.web.served import HOSTILE, TOKENS, ServedShop

pytestmark = pytest.mark.browser


@pytest.fixture
def page(browser: Browser, shop: ServedShop) -> Iterator[Page]:
    """A page of an operator; what its console complains about fails the test."""
    context = browser.new_context(base_url=shop.url, extra_http_headers={})
    page = context.new_page()
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("dialog", lambda dialog: said.append(f"a dialog: {dialog.message}"))
    sign_in(page, "operator")
    yield page
    context.close()
    assert said == [], "the console is silent: no script failed, and the policy had nothing to refuse"


def sign_in(page: Page, role: str) -> None:
    """Sign in with a token, as a person does."""
    page.goto("/sagas")
    page.get_by_label("Token").fill(TOKENS[role])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Sagas")).to_be_visible()


def test_a_saga_is_found_opened_and_explained_by_mouse(page: Page, shop: ServedShop) -> None:
    page.get_by_label("State").select_option("COMPENSATED")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(f"{shop.url}/sagas?state=COMPENSATED&sort=attention")
    expect(page.locator(".cli code")).to_have_text("saga list --state COMPENSATED")
    page.get_by_role("link", name="fulfilment/4712").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("fulfilment/4712 ↩ COMPENSATED")
    expect(page.locator(".why")).to_contain_text("StockRefused")
    expect(page.get_by_role("img", name="fulfilment/4712")).to_be_visible()


def test_a_change_is_seen_without_a_reload(page: Page, shop: ServedShop) -> None:
    page.goto("/sagas?sort=started")
    expect(page.locator("#link")).to_have_text("live")
    page.evaluate("() => { window.never = 'reloaded'; }")
    shop.place(("live-1", "refuse"))
    expect(page.get_by_role("link", name="fulfilment/live-1")).to_be_visible(timeout=30_000)
    row = page.get_by_role("row").filter(has_text="fulfilment/live-1")
    expect(row).to_contain_text("COMPENSATED", timeout=30_000)
    assert page.evaluate("() => window.never") == "reloaded"


def test_hostile_keys_are_shown_as_text_and_lead_to_their_pages(page: Page) -> None:
    for key in HOSTILE:
        page.goto("/sagas?sort=key")
        page.locator(f'tr[data-id="{saga_id("fulfilment", key)}"] a').click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("fulfilment/")
        assert page.locator(".facts [data-fact=key]").text_content() == key
        assert page.title() != "owned"
        assert page.locator("script").count() == 1
        assert page.evaluate("() => [...document.querySelectorAll('a')].every((a) => a.protocol.startsWith('http'))")
