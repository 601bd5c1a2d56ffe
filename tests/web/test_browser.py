"""The web view in a real browser: by mouse and by keyboard, live, judged by axe-core, fed by ill-willed people.

Screenshots of every page in light and dark are left in `build/screenshots`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from choreo.saga.names import saga_id
from tests.support.browser import axe_script
from tests.support.cli import saga
from tests.support.parts import Missing, missing
from tests.web.served import HOSTILE, TOKENS, ServedShop, artefacts, bearer

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)

AXE = """
async () => {
  const judged = await axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  });
  return judged.violations.map((each) => [each.id, ...each.nodes.map((node) => node.html.slice(0, 200))]);
}
"""


@pytest.fixture(scope="module")
def signed_in(browser: Browser, shop: ServedShop) -> dict[str, Any]:
    """The cookies of an admin who has signed in as a person does."""
    context = browser.new_context(base_url=shop.url)
    page = context.new_page()
    page.goto("/sagas?state=FAILED")
    page.get_by_label("Token").fill("nobody's token, long enough")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("Nobody has this token.")
    page.get_by_label("Token").fill(TOKENS["admin"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Sagas")).to_be_visible()
    expect(page.locator(".who")).to_have_text("admin-ann admin")
    state: Any = context.storage_state()
    context.close()
    return dict(state)


@pytest.fixture
def page(browser: Browser, shop: ServedShop, signed_in: Any) -> Iterator[Page]:
    """A page of an admin; what its console complains about fails the test."""
    context = browser.new_context(base_url=shop.url, storage_state=signed_in)
    context.set_default_timeout(60_000)
    page = context.new_page()
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("dialog", lambda dialog: said.append(f"a dialog: {dialog.message}"))
    yield page
    context.close()
    if shop.programs[-1].code is not None:  # the test has stopped it, and a browser tells that nobody answers
        said = [each for each in said if not each.startswith("Failed to load resource: net::ERR_")]
    assert said == [], "the console is silent: no script failed, and the policy had nothing to refuse"


def test_a_saga_is_found_opened_and_explained_by_mouse(page: Page, shop: ServedShop) -> None:
    page.goto("/")
    page.get_by_role("link", name="Sagas", exact=True).click()
    page.get_by_label("State").select_option("COMPENSATED")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(f"{shop.url}/sagas?state=COMPENSATED&sort=attention")
    expect(page.locator(".cli code")).to_have_text("saga list --state COMPENSATED")
    page.get_by_role("link", name="fulfilment/4712").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("fulfilment/4712 ↩ COMPENSATED")
    expect(page.locator(".why")).to_contain_text("StockRefused")
    expect(page.get_by_role("img", name="fulfilment/4712")).to_be_visible()
    expect(page.get_by_role("link", name="in Jaeger")).to_have_attribute("href", re.compile("^http://127.0.0.1:16686/"))


def test_errors_are_counted_and_the_sagas_of_one_listed(page: Page, shop: ServedShop) -> None:
    page.goto("/sagas?type=fulfilment")
    page.get_by_role("link", name="error", exact=True).click()
    expect(page.locator(".cli code")).to_have_text("saga list --type fulfilment --group-by error")
    row = page.get_by_role("row").filter(has_text="StockRefused")
    expect(row).to_contain_text("fulfilment/4712")
    row.get_by_role("link", name="StockRefused").click()
    expect(page.locator(".cli code")).to_have_text("saga list --type fulfilment --error StockRefused")
    expect(page.get_by_role("link", name="fulfilment/4712")).to_be_visible()


def test_a_letter_is_mended_by_keyboard_and_nothing_written_is_lost(
    browser: Browser, shop: ServedShop, letter: str
) -> None:
    context = browser.new_context(base_url=shop.url, extra_http_headers=bearer("admin"))
    page = context.new_page()
    page.goto(f"/dead-letters/{letter}")
    page.locator("#act-edit summary").focus()
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Load its body into a form").focus()
    page.keyboard.press("Enter")
    body = page.get_by_label("Body, as JSON")
    expect(body).to_contain_text("poison")
    body.fill("no JSON")
    page.locator("#act-edit").get_by_label("Reason").fill("a typing error")
    page.locator("#act-edit").get_by_label("Reason").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("the new body is not JSON")
    expect(body).to_have_value("no JSON")
    _listens(page)
    page.keyboard.press("g")
    page.keyboard.press("u")
    expect(page.get_by_role("heading", name="Audit")).to_be_visible()
    expect(page.get_by_text("The audit holds")).to_be_visible()
    context.close()


def test_an_approval_is_given_with_a_reason_and_stands_in_the_audit(page: Page, shop: ServedShop) -> None:
    shop.place(("by-mouse", ""))
    page.goto("/approvals")
    card = page.locator(".card").filter(has=page.get_by_role("link", name="fulfilment/by-mouse", exact=True))
    card.get_by_role("link", name="Look and answer").click()
    page.get_by_text("Approve review", exact=True).first.click()
    form = page.locator("#act-approve-review")
    form.get_by_role("button", name="Approve review").click()
    assert page.url.endswith("#act"), "without a reason the browser sends nothing"
    form.get_by_label("Reason").fill("<b>checked</b>")
    form.get_by_role("button", name="Approve review").click()
    expect(page.get_by_text("approve: fulfilment/by-mouse is")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_contain_text("COMPLETED")
    told = shop.saga("audit", "list", "-o", "json")
    assert [row for row in told if row["target"] == "fulfilment/by-mouse" and row["by"] == "admin-ann"], told
    assert {row["via"] for row in told if row["by"] == "admin-ann"} == {"web"}


def _listens(page: Page) -> None:
    """Wait until a new page hears its keys: then its script shows the button that lists them."""
    expect(page.locator("#keys")).to_be_visible()


def test_everything_can_be_done_by_keyboard(page: Page, shop: ServedShop) -> None:
    shop.place(("by-keys", ""))
    shop.until(lambda: shop.listed("key=by-keys&waiting-for-person=1"))
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("g")
    page.keyboard.press("s")
    expect(page.get_by_role("heading", name="Sagas")).to_be_visible()
    _listens(page)
    page.keyboard.press("/")
    expect(page.get_by_label("Type")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.get_by_role("textbox", name="Key", exact=True)).to_be_focused()
    page.keyboard.type("by-keys")
    page.keyboard.press("Enter")
    expect(page.locator(".cli code")).to_have_text("saga list --key by-keys")
    _listens(page)
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="fulfilment/by-keys")).to_be_focused()
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "where the focus is can be seen"
    page.keyboard.press("Enter")
    page.locator("#act-reject-review summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("no such customer")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("COMPENSATED")
    _listens(page)
    page.keyboard.press("?")
    expect(page.get_by_role("heading", name="Keys", exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name="Keys", exact=True)).to_be_hidden()  # keys are the dialog's until then
    before = page.evaluate("() => getComputedStyle(document.body).color")
    page.keyboard.press("t")
    page.keyboard.press("t")
    expect(page.locator("#theme")).to_have_text("Theme: dark")
    assert page.evaluate("() => getComputedStyle(document.body).color") != before


def test_a_change_is_seen_without_a_reload(page: Page, shop: ServedShop) -> None:
    page.goto("/sagas?sort=started")
    expect(page.locator("#link")).to_have_text("live")
    page.evaluate("() => { window.never = 'reloaded'; }")
    shop.place(("live-1", "refuse"))
    row = page.get_by_role("row").filter(has_text="fulfilment/live-1")
    expect(row).to_contain_text("COMPENSATED", timeout=60_000)
    assert page.evaluate("() => window.never") == "reloaded"
    shop.programs[-1].stop()
    expect(page.locator("#link")).to_have_text("not connected, looking now and then", timeout=60_000)


def test_after_the_server_was_away_a_page_goes_on(browser: Browser, shop: ServedShop, signed_in: Any) -> None:
    if shop.programs[-1].code is not None:
        shop.serve()
    context = browser.new_context(base_url=shop.url)
    page = context.new_page()  # sessions end with their server
    page.goto("/sagas?sort=started")
    page.get_by_label("Token").fill(TOKENS["viewer"])
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#link")).to_have_text("live")
    shop.place(("live-2", "refuse"))
    expect(page.get_by_role("link", name="fulfilment/live-2")).to_be_visible(timeout=60_000)
    page.goto("/sagas/fulfilment/4711")
    expect(page.get_by_text("for operators")).to_be_visible()
    assert page.locator("main form").count() == 0, "a viewer is offered nothing to change"
    context.close()


@pytest.fixture(scope="module")
def letter(shop: ServedShop) -> str:
    """A dead letter whose payload and error are of somebody who means us ill."""
    found = httpx.get(f"{shop.url}/dead-letters.json", headers=bearer("viewer"), timeout=60).json()
    return str(next(each["id"] for each in found if each["key"] == "4713"))


@pytest.fixture(scope="module")
def batch(shop: ServedShop) -> str:
    """A batch that has refused everything: none of these sagas is paused."""
    told = ("resume", "--type", "fulfilment", "--reason", "<b>the card processor is back</b>", "-y", "-o", "json")
    saga(*told, env=shop.env, cwd=shop.folder)
    found = httpx.get(f"{shop.url}/batches.json", headers=bearer("viewer"), timeout=60).json()
    return str(found[0]["id"])


def test_hostile_keys_and_payloads_are_shown_as_text(browser: Browser, shop: ServedShop, letter: str) -> None:
    context = browser.new_context(base_url=shop.url, extra_http_headers=bearer("operator"))
    page = context.new_page()
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    for key in HOSTILE:
        page.goto("/sagas?sort=key")
        page.locator(f'tr[data-id="{saga_id("fulfilment", key)}"] a').click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("fulfilment/")
        assert page.locator(".facts [data-fact=key]").text_content() == key
        _is_inert(page)
    page.goto("/sagas/fulfilment/4713")
    page.get_by_role("link", name="payload of input 1", exact=True).click()
    expect(page.locator("pre")).to_contain_text("poison <script>document.title='owned'</script>")
    _is_inert(page)
    page.goto(f"/dead-letters/{letter}?payload=1")
    expect(page.locator("pre")).to_contain_text("poison <script>document.title='owned'</script>")
    expect(page.locator(".bad")).to_contain_text("<img src=x onerror=alert(1)>")
    _is_inert(page)
    width = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width <= 0, "however long a value is, the page does not grow wider than the window"
    context.close()
    assert dialogs == []


def _is_inert(page: Page) -> None:
    assert page.title() != "owned"
    assert page.locator("script").count() == 1
    assert page.locator("main img").count() == 0
    assert page.evaluate("() => [...document.querySelectorAll('a')].every((a) => a.protocol.startsWith('http'))")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(
    browser: Browser, shop: ServedShop, letter: str, batch: str, scheme: Any
) -> None:
    try:
        axe = axe_script().read_text()
    except Missing as reason:
        missing("axe-core", str(reason))
    context = browser.new_context(
        base_url=shop.url,
        color_scheme=scheme,
        extra_http_headers=bearer("admin"),
        viewport={"width": 1280, "height": 800},
    )
    page = context.new_page()
    pages = {
        "overview": "/",
        "sagas": "/sagas",
        "no-sagas": "/sagas?key=nobody",
        "errors-counted": "/sagas?group-by=error",
        "states-counted": "/sagas?group-by=state",
        "saga": "/sagas/fulfilment/4711",
        "saga-undone": "/sagas/fulfilment/4713",
        "approvals": "/approvals",
        "dead-letters": "/dead-letters",
        "dead-letter": f"/dead-letters/{letter}?payload=1",
        "dead-letter-mended": f"/dead-letters/{letter}?edit=1",
        "payload": "/payloads/1/fulfilment/4713",
        "batches": "/batches",
        "batch": f"/batches/{batch}?items=all",
        "audit": "/audit",
        "change": "/audit/1",
        "catalog": "/catalog",
        "definitions": "/definitions",
        "definition": "/definitions/fulfilment",
        "problem": "/sagas/nobody",
        "sign-in": "/login",
    }
    found = {}
    for name, path in pages.items():
        page.goto(path)
        if name == "saga":
            page.get_by_text("Reject review", exact=True).first.click()
        page.screenshot(path=artefacts() / f"{name}-{scheme}.png", full_page=True)
        page.evaluate(axe)
        if violations := page.evaluate(AXE):
            found[path] = violations
    page.goto("/")
    page.get_by_role("button", name="Keys").click()
    page.screenshot(path=artefacts() / f"keys-{scheme}.png")
    page.evaluate(axe)
    found |= {"keys": violations} if (violations := page.evaluate(AXE)) else {}
    page.set_viewport_size({"width": 400, "height": 800})
    for name in ("overview", "sagas", "saga", "audit", "batch", "dead-letter-mended"):
        page.goto(pages[name])
        page.screenshot(path=artefacts() / f"{name}-narrow-{scheme}.png")
    context.close()
    assert found == {}
