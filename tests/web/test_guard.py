"""What the web view refuses: strangers, other names, other pages' forms, too much, and what a role does not cover."""

from __future__ import annotations

import pytest

from choreo.saga import audit
from choreo.saga.web.feed import Feed, TooMany
from choreo.saga.web.visitors import Role
from tests.saga.stage import Placed, Stage
from tests.web.served import TOKENS, bearer
from tests.web.visits import ORIGIN, SAID, Client, stamp_in


async def test_every_answer_tells_browsers_what_they_may_do(client: Client) -> None:
    web = await client(local=Role.VIEWER)
    for path in ("/", "/sagas", "/sagas.json", "/sagas/order/7", "/nothing", "/static/app.css", "/sagas?limit=x"):
        answer = await web.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        kept = "immutable" if path.startswith("/static") else "no-store"
        assert kept in answer.headers["cache-control"], path
        assert "style=" not in answer.text and "<script>" not in answer.text, "the policy would refuse it"


async def test_a_stranger_is_asked_who_they_are(client: Client) -> None:
    web = await client(web_tokens=SAID)
    answer = await web.get("/sagas?state=FAILED")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/sagas%3Fstate%3DFAILED")
    for path in ("/sagas.json", "/live", "/act"):
        assert (await web.get(path, headers={"accept": "*/*"})).status_code == 401
    assert (await web.get("/health")).status_code == 200
    assert (await web.get("/sagas.json", headers=bearer("viewer"))).status_code == 200
    assert (await web.get("/sagas.json", headers={"authorization": "Bearer wrong", "accept": "*/*"})).status_code == 401
    nobody = await client()
    assert (await nobody.get("/sagas")).status_code == 401


async def test_a_session_begins_under_a_new_name_and_leads_only_to_pages_of_ours(client: Client) -> None:
    web = await client(web_tokens=SAID)
    page = await web.get("/login?next=//evil.example/")
    before = web.cookies["choreo_visit"]
    fields = {"stamp": stamp_in(page), "token": TOKENS["viewer"], "next": "//evil.example/"}
    answer = await web.post("/login", data=fields, headers=ORIGIN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and before not in cookie
    page = await web.get("/sagas")
    assert page.status_code == 200
    signed_in = web.cookies["choreo_visit"]
    answer = await web.post("/logout", data={"stamp": stamp_in(page)}, headers=ORIGIN)
    assert answer.headers["location"] == "/login"
    web.cookies.clear()
    web.cookies.set("choreo_visit", signed_in)
    assert (await web.get("/sagas")).status_code == 303, "the old name is worth nothing"


async def test_guessing_tokens_ends_after_a_while(client: Client) -> None:
    web = await client(web_tokens=SAID)
    stamp = stamp_in(await web.get("/login"))
    codes = [
        (await web.post("/login", data={"stamp": stamp, "token": f"guess-{n}"}, headers=ORIGIN)).status_code
        for n in range(22)
    ]
    assert codes[0] == 401 and codes[-1] == 429


async def test_a_proxy_is_believed_only_at_its_address(client: Client) -> None:
    said = {"x-forwarded-user": "ann", "x-forwarded-role": "admin"}
    trusted = await client("10.1.2.3", web_proxies="10.1.0.0/16")
    assert "ann" in (await trusted.get("/sagas", headers=said)).text
    assert (await trusted.get("/sagas")).status_code == 401
    assert (await trusted.get("/sagas", headers={**said, "x-forwarded-role": "king"})).status_code == 401
    stranger = await client("10.2.2.3", web_proxies="10.1.0.0/16", local=Role.ADMIN)
    assert (await stranger.get("/sagas", headers=said)).status_code == 401
    spoofed = {**said, "x-forwarded-for": "10.1.2.3", "forwarded": "for=10.1.2.3"}
    assert (await stranger.get("/sagas", headers=spoofed)).status_code == 401


async def test_another_name_for_this_machine_is_refused(client: Client) -> None:
    web = await client(local=Role.VIEWER, web_hosts="sagas.example")
    for host, code in (("127.0.0.1:9", 200), ("sagas.example", 200), ("evil.example", 403), ("", 403)):
        assert (await web.get("/sagas", headers={"host": host})).status_code == code, host


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"origin": "null"}, {}, {"origin": "http://127.0.0.1:81"}],
    ids=["other", "null", "none", "other port"],
)
async def test_a_form_on_another_page_changes_nothing(client: Client, headers: dict[str, str]) -> None:
    web = await client(local=Role.ADMIN)
    fields = {"kind": "cancel", "id": "order/7", "reason": "x", "stamp": stamp_in(await web.get("/sagas/order/7"))}
    assert (await web.post("/act", data=fields, headers=headers)).status_code == 403


async def test_a_header_that_is_no_token_makes_no_form_ours(client: Client) -> None:
    web = await client(local=Role.ADMIN)
    fields = {"kind": "cancel", "id": "order/7", "reason": "x"}
    junk = {"origin": "http://evil.example", "authorization": "Bearer of-nobody-at-all-here"}
    assert (await web.post("/act", data=fields, headers=junk)).status_code == 403
    assert (await web.post("/act", data=fields, headers={**junk, **ORIGIN})).status_code == 403


async def test_a_form_without_our_stamp_or_of_another_visit_changes_nothing(client: Client) -> None:
    web = await client(local=Role.ADMIN)
    fields = {"kind": "cancel", "id": "order/7", "reason": "x"}
    assert (await web.post("/act", data=fields, headers=ORIGIN)).status_code == 403
    stamp = stamp_in(await web.get("/sagas/order/7"))
    web.cookies.clear()
    assert (await web.post("/act", data={**fields, "stamp": stamp}, headers=ORIGIN)).status_code == 403


async def test_a_role_does_what_it_covers_and_each_change_wants_a_reason(client: Client, sqlite_stage: Stage) -> None:
    web = await client(web_tokens=SAID)
    fields = {"kind": "cancel", "id": "order/7", "reason": "the customer called"}
    answers = {role: await web.post("/act", data=fields, headers=bearer(role)) for role in ("viewer",)}
    assert answers["viewer"].status_code == 403
    assert (await web.post("/act", data={**fields, "reason": " "}, headers=bearer("operator"))).status_code == 400
    for kind in ("stop", "mark-undone"):
        assert (await web.post("/act", data={**fields, "kind": kind}, headers=bearer("operator"))).status_code == 403
    assert (await web.post("/act", data={**fields, "kind": "drop"}, headers=bearer("admin"))).status_code == 400
    asked = {**bearer("operator"), "accept": "application/json"}
    done = await web.post("/act", data=fields, headers=asked)
    assert (done.status_code, done.json()["state"]) == (200, "applied")
    again = await web.post("/act", data=fields, headers=asked)
    assert again.status_code == 409, "what the state does not permit is refused"
    rows = await sqlite_stage.database.read(lambda c: list(audit.chain(c)))
    told = [row for row in rows if row.action == "cancel"]
    assert {(row.by, row.via, row.target) for row in told} == {("operator-ann", "web", "order/7")}
    assert told[0].reason == "the customer called"


async def test_payloads_are_for_operators(client: Client) -> None:
    web = await client(web_tokens=SAID)
    assert (await web.get("/payloads/1/order/7", headers=bearer("viewer"))).status_code == 403
    assert (await web.get("/payloads/1/order/7", headers=bearer("operator"))).status_code == 200
    assert (await web.get("/payloads/9/order/7", headers=bearer("operator"))).status_code == 404
    assert "payload" not in (await web.get("/sagas/order/7", headers=bearer("viewer"))).text


async def test_too_much_is_refused_before_it_is_parsed(client: Client) -> None:
    web = await client(local=Role.ADMIN)
    assert (await web.get(f"/sagas?key={'k' * 9_000}")).status_code == 414
    assert (await web.get(f"/sagas?key={'k' * 600}")).status_code == 400
    stamp = stamp_in(await web.get("/sagas/order/7"))
    fields = {"kind": "cancel", "id": "order/7", "reason": "x" * 70_000, "stamp": stamp}
    assert (await web.post("/act", data=fields, headers=ORIGIN)).status_code == 413
    many = "&".join(f"a{number}=1" for number in range(60)) + f"&stamp={stamp}"
    form = {**ORIGIN, "content-type": "application/x-www-form-urlencoded"}
    assert (await web.post("/act", content=many, headers=form)).status_code == 400
    json_ = {**ORIGIN, "content-type": "application/json"}
    assert (await web.post("/act", content="{}", headers=json_)).status_code == 415
    assert (await web.request("DELETE", "/sagas/order/7")).status_code == 405


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/sagas?group-by=luck", "write one of error, step, type, state"),
        ("/sagas?group-by=type&after=0:1:order/7", "has one page"),
        ("/sagas?colour=red", "is no filter of a list"),
        ("/sagas?state=HAPPY", "write one of RUNNING"),
        ("/sagas?condition=Sad", "write one of"),
        ("/sagas?since=yesterday", "write 1h"),
        ("/sagas?limit=0", "1 to 500"),
        ("/sagas?sort=luck", "is no order"),
        ("/sagas?after=nowhere", "no place in a list"),
        ("/sagas?open=perhaps", "neither yes nor no"),
        ("/?span=1y", "write one of 1h"),
        ("/sagas/order/77", "there is no saga"),
        ("/sagas/%00", "NUL"),
        ("/definitions/nothing", "it knows order"),
        ("/nothing", "Not Found"),
        ("/static/..%2fapp.py", "Not Found"),
    ],
)
async def test_a_wrong_address_is_told_in_a_sentence(client: Client, path: str, told: str) -> None:
    answer = await (await client(local=Role.VIEWER)).get(path)
    assert answer.status_code in (400, 404)
    assert told in answer.text.replace("&#39;", "'")
    twin = await (await client(local=Role.VIEWER)).get(path, headers={"accept": "application/json"})
    assert twin.headers["content-type"] == "application/problem+json"


async def test_twins_give_what_the_command_line_gives(client: Client, sqlite_stage: Stage) -> None:
    from choreo.saga import report
    from choreo.saga.queries import Filter, list_sagas
    from tests.support.console import validate

    web = await client(local=Role.VIEWER)
    rows = await sqlite_stage.database.read(lambda c: list_sagas(c, Filter(), limit=50))
    [told] = (await web.get("/sagas.json")).json()
    assert told | {"duration_ms": 0} == report.summary(rows[0], 0) | {"duration_ms": 0}
    for path in ("/sagas/order/7.json", "/why/order/7.json", "/graph/order/7.json", "/catalog.json", "/overview.json"):
        validate((await web.get(path)).json())
    validate((await web.get("/definitions.json")).json()[0])
    validate((await web.get("/plan/order/7.json")).json())


async def test_every_filter_of_the_list_stands_in_the_address(client: Client) -> None:
    web = await client(local=Role.VIEWER)
    page = await web.get("/sagas?type=order&open=1&key=7&older=1h&error=Declined&tag=team%3Dshop&since=2d&sort=started")
    line = "saga list --type order --key 7 --tag team=shop --open --since 2d --older 1h --error Declined --sort started"
    assert f'<code dir="ltr">{line}</code>' in page.text
    assert (await web.get("/sagas.json?error=Declined")).json() == []
    assert len((await web.get("/sagas.json?type=order&open=1")).json()) == 1


async def test_the_store_has_one_reader_however_many_look_on(sqlite_stage: Stage) -> None:
    await sqlite_stage.start()
    await sqlite_stage.publish(Placed(order_id="7"))
    await sqlite_stage.until(lambda found: len(found) == 1)
    feed = Feed(most=50)
    feed.open(sqlite_stage.database)
    clients = [feed.join() for _ in range(50)]
    with pytest.raises(TooMany):
        feed.join()
    streams = [feed.stream(each) for each in clients]
    for stream in streams:
        assert "hello" in await anext(stream)
    before = feed.reads
    sqlite_stage.now += 60_000_000
    await sqlite_stage.publish(Placed(order_id="8"))
    for stream in streams:
        while "order/8" not in await anext(stream):
            pass
    assert feed.reads - before < 50, "fewer looks than one for each client"
    await streams[0].aclose()
    assert feed.join() is not None, "who has gone leaves room"
    await feed.close()
    for stream in streams[1:]:
        assert [each async for each in stream] == []
