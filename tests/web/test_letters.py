"""Dead letters in the web view: mended and sent again, or skipped, under the rules of `saga dlq edit|skip`."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from choreo import Event, Permanent, Publisher, Retry, Saga, Secret, Service, step
from choreo.events.database import Database
from choreo.events.settings import Settings, load_settings
from choreo.events.transports import connect
from choreo.saga import audit
from choreo.saga.loading import Parts
from choreo.saga.running import Process
from choreo.saga.web.app import WebView
from tests.support.console import Console, validate
from tests.web.served import bearer
from tests.web.visits import ORIGIN, SAID, forms_in, stamp_in

PAGE = {"accept": "text/html"}


class Billed(Event, topic="bills", key="bill_id"):
    bill_id: str
    amount: int
    card: Secret[str]


class Paid(Event, topic="payments", key="bill_id"):
    bill_id: str


class Billing(Saga, start=Billed, key="bill_id", active_from="beginning"):
    pay = step(done=Paid, undo=None, within="1h", pivot=True)


class Till:
    """A shop whose service takes 100 at least, and a web view of it."""

    def __init__(self, settings: Settings, client: httpx.AsyncClient) -> None:
        self.settings = settings
        self.client = client
        self.seen: list[tuple[str, int, str]] = []

    def service(self) -> Service:
        service = Service("till")

        @service.on(Billed, retry=Retry(attempts=1))
        async def pay(bill: Billed) -> Paid:
            self.seen.append((bill.bill_id, bill.amount, bill.card.reveal()))
            if bill.amount < 100:
                raise Permanent("less than 100")
            return Paid(bill_id=bill.bill_id)

        return service

    async def publish(self, *events: Event) -> None:
        async with (
            connect(self.settings.broker_url, self.settings) as transport,
            Publisher(transport, source="shop", settings=self.settings) as publisher,
        ):
            await publisher.publish(*events)

    async def letters(self, count: int, query: str = "") -> list[dict[str, Any]]:
        """Wait until so many are listed."""
        async with asyncio.timeout(60):
            while True:
                answer = await self.client.get(f"/dead-letters.json{query}", headers=bearer("viewer"))
                found: list[dict[str, Any]] = answer.json()
                if len(found) == count:
                    return found
                await asyncio.sleep(0.2)

    async def completed(self, name: str) -> None:
        """Wait until a saga is COMPLETED."""
        async with asyncio.timeout(60):
            while True:
                answer = await self.client.get(f"/sagas/{name}.json", headers=bearer("viewer"))
                if answer.is_success and answer.json()["phase"] == "COMPLETED":
                    return
                await asyncio.sleep(0.1)

    async def post(self, letter: str, role: str = "admin", **fields: str) -> httpx.Response:
        """Send a form as a program with a token does."""
        return await self.client.post(f"/dead-letters/{letter}", data=fields, headers={**bearer(role), **PAGE})


@pytest.fixture
async def till(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Till]:
    monkeypatch.setattr("choreo.saga.web.letters._KEPT", 0.0)
    monkeypatch.setenv("CHOREO_BROKER", "kafka://127.0.0.1:1")  # of somebody else: the view has settings of its own
    settings = load_settings(home=tmp_path, broker=f"local:{tmp_path / 'broker.db'}", web_tokens=SAID)
    async with AsyncExitStack() as stack:
        made = Till(settings, httpx.AsyncClient())
        broker = await stack.enter_async_context(connect(settings.broker_url, settings))
        parts = Parts((made.service(),), (Billing,))
        await stack.enter_async_context(Process(parts, broker, settings, create_topics=True, partitions=1))
        view = await stack.enter_async_context(WebView(settings, hosts=["127.0.0.1"], events=[Paid]))
        transport = httpx.ASGITransport(view, client=("127.0.0.1", 4711))
        made.client = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60)
        )
        yield made


def _draft(page: httpx.Response) -> str:
    found = re.search(r'<textarea name="data" rows="14"[^>]*>\n(.*?)</textarea>', page.text, re.DOTALL)
    assert found is not None, page.text
    return html.unescape(found[1])


async def test_a_letter_is_mended_in_a_form_secrets_masked_and_sent_again(till: Till) -> None:
    await till.publish(Billed(bill_id="1", amount=5, card=Secret("4111")))
    [letter] = await till.letters(1)
    path = f"/dead-letters/{letter['id']}"
    for role, offered in (("viewer", set()), ("operator", {"retry"}), ("admin", {"retry", "edit", "skip", "discard"})):
        assert forms_in(await till.client.get(path, headers=bearer(role))) == offered
    assert (await till.client.get(f"{path}?edit=1", headers=bearer("operator"))).status_code == 403
    page = await till.client.get(f"{path}?edit=1", headers={**bearer("admin"), **PAGE})
    text = _draft(page)
    assert "4111" not in page.text and json.loads(text) == {"bill_id": "1", "amount": 5, "card": "**********"}
    mended = text.replace("5", "500")
    assert (await till.post(letter["id"], "operator", kind="edit", reason="x", data=mended)).status_code == 403
    assert (await till.post(letter["id"], kind="edit", reason=" ", data=mended)).status_code == 400
    for wrong, told in (
        (text.replace("5", '"much"'), "does not fit its schema"),
        ("{", "is not JSON"),
        ("", "is empty"),
        (text, "unchanged"),
    ):
        refused = await till.post(letter["id"], kind="edit", reason="a typing error", data=wrong)
        assert refused.status_code == 400 and told in refused.text, "it is told in the form"
        assert _draft(refused) == wrong and 'value="a typing error"' in refused.text, "nothing written is lost"
    done = await till.post(letter["id"], kind="edit", reason="a typing error", data=mended)
    assert (done.status_code, done.headers["location"]) == (303, path)
    await till.completed("billing/1")
    assert till.seen == [("1", 5, "4111"), ("1", 500, "4111")], "where the mask stood, the secret does"
    [settled] = await till.letters(1, "?settled=1")
    assert (settled["state"], settled["settled"]["reason"]) == ("retried", "edited: a typing error")
    assert settled["settled"]["by"] == "admin-ann"
    again = await till.post(letter["id"], kind="edit", reason="once more", data=mended)
    assert again.status_code == 409 and "was retried by admin-ann" in again.text
    database = await Database.open(till.settings.store_url)
    try:
        rows = await database.read(lambda c: audit.read(c, audit.Wanted(action="dlq edit", unfolded=True)))
    finally:
        await database.close()
    assert [(row.outcome, row.by, row.via, row.reason) for row in rows] == [
        ("done", "admin-ann", "web", "a typing error"),
        ("asked", "admin-ann", "web", "a typing error"),
    ]


async def test_a_payload_is_shown_as_the_command_line_shows_it_of_avro_and_of_json(
    till: Till, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    await till.publish(Billed(bill_id="1", amount=5, card=Secret("4111")))
    async with asyncio.timeout(60):
        while True:
            answer = await till.client.get("/sagas/billing/1.json", headers=bearer("viewer"))
            if answer.is_success and len(answer.json()["history"]) == 2:
                break
            await asyncio.sleep(0.1)
    where = ("--store", till.settings.store_url, "--broker", till.settings.broker_url, "-o", "json")
    saga = Console(capsys, tmp_path)
    entries = (await asyncio.to_thread(saga, "history", "billing/1", "--payloads", *where)).json
    assert [each["kind"] for each in entries] == ["event", "failure"]
    assert entries[0]["payload"] == {"bill_id": "1", "amount": 5, "card": "**********"}
    assert entries[1]["payload"]["handler"] == "pay", "what choreo publishes itself is JSON"
    for entry in entries:
        answer = await till.client.get(f"/payloads/{entry['seq']}.json/billing/1", headers=bearer("operator"))
        assert validate(answer.json()) == entry
    page = await till.client.get("/payloads/1/billing/1", headers={**bearer("operator"), **PAGE})
    assert "4111" not in page.text and 'href="/payloads/1.json/billing/1"' in page.text
    assert (await till.client.get("/payloads/1.json/billing/1", headers=bearer("viewer"))).status_code == 403
    assert (await till.client.get("/payloads/9.json/billing/1", headers=bearer("operator"))).status_code == 404


async def test_a_letter_is_skipped_with_the_event_that_its_handler_would_have_published(till: Till) -> None:
    await till.publish(Billed(bill_id="1", amount=5, card=Secret("1")), Billed(bill_id="2", amount=6, card=Secret("2")))
    first, second = sorted(await till.letters(2), key=lambda each: str(each["key"]))
    page = await till.client.get(f"/dead-letters/{first['id']}", headers={**bearer("admin"), **PAGE})
    assert "<option>Paid</option>" in page.text
    for event, data, told in (("Billed", "{}", "cannot be published here"), ("Paid", "{}", "bill_id: Field required")):
        refused = await till.post(first["id"], kind="skip", reason="paid in cash", event=event, data=data)
        assert refused.status_code == 400 and told in refused.text and 'value="paid in cash"' in refused.text
    assert (await till.post(first["id"], "operator", kind="skip", reason="x")).status_code == 403
    done = await till.post(first["id"], kind="skip", reason="paid in cash", event="Paid", data='{"bill_id": "1"}')
    assert done.status_code == 303
    await till.completed("billing/1")
    assert (await till.post(second["id"], kind="skip", reason="a test order")).status_code == 303
    settled = await till.letters(2, "?settled=1")
    assert {each["key"]: each["state"] for each in settled} == {"1": "skipped", "2": "skipped"}
    assert (await till.post(second["id"], kind="drop", reason="x")).status_code == 400


async def test_a_form_of_another_visit_mends_nothing_and_too_much_is_refused(till: Till) -> None:
    await till.publish(Billed(bill_id="1", amount=5, card=Secret("1")))
    [letter] = await till.letters(1)
    path = f"/dead-letters/{letter['id']}"
    fields = {"kind": "edit", "reason": "x", "data": "{}"}
    page = await till.client.get("/login", headers=PAGE)
    signed = await till.client.post(
        "/login", data={"stamp": stamp_in(page), "token": "a" * 24, "next": path}, headers=ORIGIN
    )
    assert signed.status_code == 303
    assert (await till.client.post(path, data=fields, headers=ORIGIN)).status_code == 403
    stamp = stamp_in(await till.client.get(path, headers=PAGE))
    too_much = {**fields, "stamp": stamp, "data": "x" * 2_100_000}
    assert (await till.client.post(path, data=too_much, headers=ORIGIN)).status_code == 413
    assert (await till.post(letter["id"], "operator", kind="retry", reason="x" * 70_000)).status_code == 413
