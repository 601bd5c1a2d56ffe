"""Pages that say what a command of the command line says: counted sagas, the audit, batches, dead letters."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update

from choreo.saga import audit, jobs
from choreo.saga.audit import Who
from choreo.saga.tables import audit as audit_table
from choreo.saga.web import records
from choreo.saga.web.visitors import Role
from tests.saga.stage import Placed, Refused, Stage
from tests.support.console import Console, validate
from tests.web.served import bearer
from tests.web.visits import SAID, Client, forms_in

Ask = Any


@pytest.fixture
def saga(capsys: pytest.CaptureFixture[str], tmp_path: Path, sqlite_stage: Stage) -> Ask:
    """The command line over the stage's store: `await saga("list")` gives its JSON."""
    console = Console(capsys, tmp_path)

    async def ask(*words: object) -> Any:
        done = await asyncio.to_thread(console, *words, "--store", sqlite_stage.url, "-o", "json")
        return done.json

    return ask


@pytest.mark.parametrize("by", ["error", "step", "type", "state"])
async def test_sagas_are_counted_by_what_they_share_as_the_command_line_counts_them(
    client: Client, sqlite_stage: Stage, saga: Ask, by: str
) -> None:
    await sqlite_stage.publish(Placed(order_id="8"), Refused(order_id="8"))
    await sqlite_stage.until(lambda found: len(found) == 2 and found["order/8"].phase.ended)
    web = await client(local=Role.VIEWER)
    told = (await web.get(f"/sagas.json?group-by={by}&since=1000d")).json()
    assert told == await saga("list", "--group-by", by, "--since", "1000d")
    assert sum(each["count"] for each in told) == (1 if by == "error" else 2)
    for each in told:
        validate(each)
    page = await web.get(f"/sagas?group-by={by}")
    assert f'<code dir="ltr">saga list --group-by {by}</code>' in page.text
    for alike in re.findall(r'<th scope="row"><a href="([^"]+)"', page.text):
        rows = (await web.get(alike.replace("&amp;", "&").replace("/sagas?", "/sagas.json?"))).json()
        assert len(rows) == 1 + (by == "type"), alike


async def test_the_audit_is_shown_with_its_chain_verified(client: Client, sqlite_stage: Stage, saga: Ask) -> None:
    web = await client(web_tokens=SAID)
    fields = {"kind": "cancel", "id": "order/7", "reason": "<b>the customer called</b>"}
    assert (await web.post("/act", data=fields, headers=bearer("operator"))).status_code == 303
    assert (await web.post("/act", data=fields, headers=bearer("operator"))).status_code == 409
    told = (await web.get("/audit.json", headers=bearer("viewer"))).json()
    assert told == await saga("audit", "list")
    assert [(each["action"], each["outcome"]) for each in told] == [("cancel", "refused"), ("cancel", "applied")]
    page = await web.get("/audit", headers=bearer("viewer"))
    assert "The audit holds" in page.text and told[0]["hash"] in page.text, "its head can be kept elsewhere"
    assert "&lt;b&gt;the customer called" in page.text
    assert "saga audit list</code>" in page.text and "saga audit verify</code>" in page.text
    assert (await web.get("/audit/verify.json", headers=bearer("viewer"))).json() == await saga("audit", "verify")
    narrow = "/audit.json?target=order/7&outcome=applied&by=operator-ann&since=1000d"
    assert (await web.get(narrow, headers=bearer("viewer"))).json() == told[1:]
    assert len((await web.get("/audit.json?unfolded=1", headers=bearer("viewer"))).json()) == 4
    number = told[1]["seq"]
    assert (await web.get(f"/audit/{number}.json", headers=bearer("viewer"))).json() == await saga(
        "audit", "show", number
    )
    one = await web.get(f"/audit/{number}", headers=bearer("viewer"))
    assert told[1]["hash"] in one.text and f"saga audit show {number}" in one.text
    for path, word in (("/audit?colour=red", "no filter"), ("/audit?before=x", "its number"), ("/audit/99", "no row")):
        assert word in (await web.get(path, headers=bearer("viewer"))).text


async def test_the_audit_goes_on_page_by_page(client: Client, sqlite_stage: Stage, monkeypatch: Any) -> None:
    monkeypatch.setattr(records, "LIMIT", 3)

    def write(connection: Any) -> None:
        for number in range(7):
            audit.record(connection, "pause", Who("ann", via="cli"), outcome=audit.DONE, target=f"order/{number}")

    await sqlite_stage.database.write(write)
    web = await client(local=Role.VIEWER)
    seen, path = [], "/audit.json?by=ann"
    while path:
        answer = await web.get(path)
        seen += [each["seq"] for each in answer.json()]
        path = answer.links.get("next", {}).get("url", "")
    assert seen == [7, 6, 5, 4, 3, 2, 1]
    page = await web.get("/audit?by=ann&before=5")
    assert 'rel="next" href="/audit?by=ann&amp;before=2"' in page.text and 'href="/audit?by=ann"' in page.text


async def test_an_audit_that_was_changed_or_cut_off_is_told_on_its_page(
    client: Client, sqlite_stage: Stage, monkeypatch: Any
) -> None:
    monkeypatch.setattr(records, "_VERIFIED_KEPT", 0.0)
    who = Who("ann", via="cli")
    for number in range(3):
        await sqlite_stage.database.write(
            lambda c, n=number: audit.record(c, "pause", who, outcome=audit.DONE, target=f"order/{n}")  # type: ignore[misc]
        )
    web = await client(local=Role.VIEWER)
    assert "The audit holds" in (await web.get("/audit")).text
    await sqlite_stage.database.write(lambda c: c.execute(delete(audit_table).where(audit_table.c.seq == 3)))
    cut = await web.get("/audit")
    assert "does not hold" in cut.text and "rows were cut off" in cut.text, "this process has seen its end"
    await sqlite_stage.database.write(
        lambda c: c.execute(update(audit_table).where(audit_table.c.seq == 2).values(by="bob"))
    )
    told = validate((await web.get("/audit/verify.json")).json())
    assert (told["holds"], told["broken"]["seq"]) == (False, 2)


async def test_batches_are_shown_and_held(client: Client, sqlite_stage: Stage, saga: Ask) -> None:
    def make(connection: Any) -> None:
        given = {"reason": "<i>no use</i>", "about": "dead letters", "rate": 5, "now": sqlite_stage.now}
        jobs.create(connection, "b-1", "dlq discard", ["d-1", "d-2"], Who("ann"), by_hand=True, **given)
        jobs.settle(connection, "b-1", "d-1", "refused", "it was settled")

    await sqlite_stage.database.write(make)
    web = await client(web_tokens=SAID)
    told = (await web.get("/batches.json", headers=bearer("viewer"))).json()
    assert told == await saga("batch", "list")
    validate(told[0])
    page = await web.get("/batches", headers=bearer("viewer"))
    assert "b-1" in page.text and "&lt;i&gt;no use" in page.text and "saga batch list</code>" in page.text
    for query, option in (("", ()), ("?items=refused", ("--refused",)), ("?items=all", ("--items",))):
        one = (await web.get(f"/batches/b-1.json{query}", headers=bearer("viewer"))).json()
        assert one == await saga("batch", "show", "b-1", *option)
    page = await web.get("/batches/b-1?items=refused", headers=bearer("viewer"))
    assert 'href="/dead-letters/d-1"' in page.text and "it was settled" in page.text
    assert forms_in(page) == set()
    assert forms_in(await web.get("/batches/b-1", headers=bearer("operator"))) == {"pause"}
    assert forms_in(await web.get("/batches/b-1", headers=bearer("admin"))) == {"pause", "abort"}

    async def turn(kind: str, role: str, reason: str = "look first") -> int:
        fields = {"kind": kind, "reason": reason}
        return int((await web.post("/batches/b-1", data=fields, headers=bearer(role))).status_code)

    assert [await turn("pause", "viewer"), await turn("abort", "operator"), await turn("drop", "admin")] == [
        403,
        403,
        400,
    ]
    assert [await turn("pause", "operator", ""), await turn("resume", "operator")] == [400, 409]
    assert [await turn("pause", "operator"), await turn("resume", "operator"), await turn("abort", "admin")] == [
        303
    ] * 3
    assert (await saga("batch", "show", "b-1"))["state"] == "aborted"
    rows = await saga("audit", "list", "b-1")
    assert [(each["action"], each["by"], each["via"], each["reason"]) for each in rows[:3]] == [
        ("batch abort", "admin-ann", "web", "look first"),
        ("batch resume", "operator-ann", "web", "look first"),
        ("batch pause", "operator-ann", "web", "look first"),
    ]
    assert (await web.get("/batches/b-2", headers=bearer("viewer"))).status_code == 404
