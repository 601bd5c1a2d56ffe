"""`saga catalog`: who says and hears what, from the broker, from code, and from both."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

from choreo import Event, Saga, Service, step
from choreo.events.catalog import EventRef, HandlerAnnouncement, ServiceAnnouncement, announce
from choreo.events.local import LocalBroker
from choreo.events.settings import load_settings
from choreo.events.transport import TopicSpec
from choreo.saga.cli import exits
from choreo.saga.definitions import announcements
from choreo.saga.participants import Participant, flows, merged, mermaid, of_sagas, of_service
from choreo.services.worker import Worker
from tests.support.console import Console, validate

DEMO = "choreo.saga.demo.saga"
SERVICES = "choreo.saga.demo.services"


class Asked(Event, topic="asks", key="id"):
    id: str


class Found(Event, topic="finds", key="id"):
    id: str


class Look(Event, topic="looks", key="id"):
    id: str


finder = Service("finder", store=None)


@finder.on(Look)
async def look(command: Look) -> Found:
    return Found(id=command.id)


class Search(Saga, start=Asked, key="id"):
    find = step(send=Look, done=Found, undo=None, within="1m")


def _search(version: int = 1) -> list[Participant]:
    [announced] = announcements([Search.definition()], "")
    return of_sagas([announced, announced.model_copy(update={"version": version})], "choreo.coordinator")


@pytest.fixture
def saga(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    return Console(capsys, tmp_path)


def test_each_event_is_told_with_who_publishes_and_who_reads_it() -> None:
    found = merged([], [of_service(finder.announcement()), *_search()], None)
    assert [(flow.type, flow.topic, flow.producers, flow.consumers) for flow in flows(found)] == [
        ("Asked", "asks", (), ("search",)),
        ("Found", "finds", ("finder",), ("search",)),
        ("Look", "looks", ("search",), ("finder",)),
    ]
    assert [(each.name, each.kind, each.members) for each in found] == [
        ("finder", "service", None),
        ("search", "saga", None),
    ]


def test_of_a_saga_the_newest_version_speaks_and_one_that_only_watches_says_nothing() -> None:
    [participant] = _search(version=4)
    assert participant.versions == (1, 4)
    [announced] = announcements([Search.definition()], "")
    [watching] = of_sagas([announced.model_copy(update={"observe_only": True})], "g")
    assert (watching.produces, len(watching.consumes)) == ((), 2)


def test_code_that_says_something_else_than_the_catalog_is_told() -> None:
    own = of_service(finder.announcement())
    old = ServiceAnnouncement(service="finder", group="finder", handlers=[HandlerAnnouncement(name="look")])
    [found] = merged([of_service(old)], [own], {"finder": 2})
    assert (found.differs, found.announced, found.members, found.produces) == (True, True, 2, own.produces)
    [same] = merged([own], [own], {})
    assert (same.differs, same.members) == (False, 0)


def test_the_mermaid_graph_joins_participants_by_events() -> None:
    lines = mermaid(merged([], [of_service(finder.announcement()), *_search()], None))
    assert lines[:3] == ["flowchart LR", '  p0["finder"]', '  p1{{"search"}}']
    node = r'  [pe]\d+(\["[^"]*"\]|\{\{"[^"]*"\}\}|\(\["[^"]*"\]\))'
    assert all(re.fullmatch(rf"{node}|  [pe]\d+ (-->|-\.->) [pe]\d+", line) for line in lines[1:]), lines
    declared = {line.split("[")[0].split("{")[0].split("(")[0].strip() for line in lines[1:] if '"' in line}
    joined = {name for line in lines[1:] if '"' not in line for name in re.findall(r"[pe]\d+", line)}
    assert joined <= declared
    assert {'  e1(["Found<br/>finds"])', "  p0 --> e1", "  e1 -.-> p1"} <= set(lines)


def test_hostile_names_stay_text() -> None:
    evil = EventRef(type='a"]; click p0 "javascript:x', topic="<script>")
    drawn = "\n".join(mermaid([Participant('x"]', "service", "", (evil,), (), ())]))
    assert '"]; click' not in drawn and "<script>" not in drawn


async def _announced(home: Path) -> None:
    async with LocalBroker(home / "broker.db") as broker:
        await announce(broker, finder.announcement(), *announcements([Search.definition()], ""))


async def test_the_command_shows_what_was_announced_and_that_nobody_is_there(saga: Console) -> None:
    await _announced(saga.home)
    told = validate((await asyncio.to_thread(saga, "catalog", "-o", "json")).json, "saga.catalog/v1")
    assert [(each["name"], each["members"], each["announced"]) for each in told["participants"]] == [
        ("finder", 0, True),
        ("search", 0, True),
    ]
    done = await asyncio.to_thread(saga, "catalog")
    assert "nobody" in done.out and "finder" in done.out
    assert "2 participants · 3 events · 1 from outside · 0 read by nobody" in done.err
    one = await asyncio.to_thread(saga, "catalog", "--event", "Look", "-o", "id")
    assert one.out.split() == ["finder", "search"]
    assert (await asyncio.to_thread(saga, "catalog", "--event", "Nothing")).code == exits.NOT_FOUND


async def test_live_members_of_a_group_are_counted(saga: Console) -> None:
    settings = load_settings()
    async with LocalBroker(saga.home / "broker.db") as broker:
        await broker.create_topics([TopicSpec(name) for name in ("looks", "finds", "looks.dlq", "choreo.failures")])
        async with Worker(finder, broker, settings=settings):
            done = await asyncio.to_thread(saga, "catalog", "-o", "json")
    assert [(each["name"], each["members"]) for each in done.json["participants"]] == [("finder", 1)]


def test_without_a_broker_the_code_is_shown(saga: Console) -> None:
    assert saga("catalog").code == exits.UNREACHABLE
    done = saga("catalog", DEMO, SERVICES, "-o", "json")
    told = validate(done.json, "saga.catalog/v1")
    assert told["observed"]["broker"] == "down"
    assert {"inventory", "fulfilment"} <= {each["name"] for each in told["participants"]}
    assert saga("catalog", DEMO, "--mermaid").out.startswith("flowchart LR\n")
