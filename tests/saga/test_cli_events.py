"""`saga events tail`: which events are shown, how, and that nobody else notices."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from choreo import Event, Publisher, Secret, load_settings
from choreo.events.transports import connect
from choreo.saga.cli import exits
from tests.support.cli import Program, environment
from tests.support.console import Console, validate


class Sold(Event, topic="till", key="bill"):
    bill: str
    card: Secret[str]


class Weighed(Event, topic="scales", key="bill", format="json"):
    bill: str
    grams: int
    pin: Secret[str]


SALES = [Sold(bill=str(number), card=Secret(f"card-{number}")) for number in range(8)]
WEIGHTS = [Weighed(bill=str(number), grams=number, pin=Secret("pin-1")) for number in range(3)]


async def _publish(home: Path, events: list[Event]) -> None:
    settings = load_settings(home=home)
    async with connect(settings.broker_url, settings) as transport:
        from choreo.events.transport import TopicSpec

        await transport.create_topics([TopicSpec(name, 2) for name in ("till", "scales", "till.dlq", "choreo.schemas")])
    async with Publisher(source="shop", settings=settings) as publisher:
        for event in events:
            await publisher.publish(event)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    asyncio.run(_publish(tmp_path, [*SALES, *WEIGHTS]))
    return tmp_path


@pytest.fixture
def saga(home: Path, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(capsys, home)


ALL = ["events", "tail", "--from-beginning", "--no-follow"]


def test_what_is_there_is_shown_without_what_it_says(saga: Console) -> None:
    done = saga(*ALL)
    assert done.code == exits.OK
    assert sorted(line.split()[1] for line in done.out.splitlines()[1:]) == ["Sold"] * 8 + ["Weighed"] * 3
    assert "till/" in done.out
    assert "card-" not in done.out
    rows = [validate(each, "saga.event/v1") for each in saga(*ALL, "-o", "json").json]
    assert {(each["type"], each["key"], each["source"]) for each in rows} == {
        *(("Sold", str(number), "shop") for number in range(8)),
        *(("Weighed", str(number), "shop") for number in range(3)),
    }
    assert all(each["size"] > 0 and "payload" not in each for each in rows)
    assert len(saga(*ALL, "-o", "id").out.split()) == 11


def test_secrets_in_payloads_are_masked_whatever_the_format(saga: Console) -> None:
    done = saga(*ALL, "--payloads", "-o", "jsonl")
    assert "card-" not in done.out
    assert "pin-1" not in done.out
    rows = [validate(json.loads(line)) for line in done.out.splitlines()]
    assert {each["payload"]["grams"] for each in rows if each["type"] == "Weighed"} == {0, 1, 2}
    assert "card-3" in saga(*ALL, "--payloads", "--reveal").out


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["till"], 8),
        (["s*", "till"], 11),
        (["--type", "Weighed"], 3),
        (["--type", "Weighed", "--type", "Sold", "--key", "1"], 2),
        (["--saga", "order/1"], 0),
        (["--saga", "7"], 1),
        (["--limit", "4"], 4),
    ],
)
def test_topics_and_filters_choose(saga: Console, arguments: list[str], count: int) -> None:
    assert len(saga(*ALL, *arguments, "-o", "json").json) == count


def test_it_begins_now_or_at_a_time(saga: Console) -> None:
    assert saga("events", "tail", "--no-follow", "-o", "json").json == []
    assert len(saga("events", "tail", "--no-follow", "--since", "1h", "-o", "json").json) == 11


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuch"], "there is no topic 'nosuch'"),
        (["--since", "1h", "--from-beginning"], "choose one"),
        (["--limit", "0"], "write 1 or more"),
        (["--since", "soon"], "is no time"),
    ],
)
def test_a_mistake_is_one_line(saga: Console, arguments: list[str], said: str) -> None:
    done = saga("events", "tail", *arguments)
    assert done.code == exits.USAGE
    assert said in done.err


def test_it_follows_until_interrupted_and_belongs_to_no_group_of_services(home: Path) -> None:
    program = Program([SAGA_NAME, "events", "tail", "-o", "json"], env=environment(home=home), folder=home, name="tail")
    try:
        program.start()
        program.until("2 topics on")
        asyncio.run(_publish(home, [Sold(bill="late", card=Secret("card-x"))]))
        program.until('"late"')
        program.tell(signal.SIGINT)
        assert program.wait() == exits.INTERRUPTED
    finally:
        program.close()
    text = program.output
    told = json.loads(text[text.index("[") : text.rindex("]") + 1])
    assert [each["key"] for each in told] == ["late"]
    assert "Traceback" not in text


SAGA_NAME = Path(sys.executable).with_name("saga").name
