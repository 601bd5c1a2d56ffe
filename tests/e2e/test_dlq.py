"""Dead letters, as a person handles them with `saga dlq`, on the embedded broker and on a real Kafka."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import Connection

from choreo import Event, Permanent, Publisher, Retry, Saga, Service, step
from choreo.events.codec import subject_of
from choreo.events.database import Database
from choreo.events.envelope import Record, read_envelope
from choreo.events.registry import open_registry
from choreo.events.settings import Settings, load_settings
from choreo.events.transports import connect
from choreo.saga import jobs
from choreo.saga.audit import Who
from choreo.saga.cli import exits
from choreo.saga.loading import Parts
from choreo.saga.running import Process
from choreo.services.letters import read_letter, redrive
from tests.support.console import Console, Done, validate


class Billed(Event, topic="bills", key="bill_id"):
    bill_id: str
    amount: int


class Paid(Event, topic="payments", key="bill_id"):
    bill_id: str
    amount: int


class Note(Event, topic="notes", key="note_id", format="json"):
    note_id: str


class Billing(Saga, start=Billed, key="bill_id", active_from="beginning"):
    pay = step(done=Paid, undo=None, within="1h", pivot=True)


class Till:
    """The service that takes the money; it takes only what the test has told it to."""

    def __init__(self) -> None:
        self.least = 100
        self.seen: list[str] = []
        self.service = Service("till")

        @self.service.on(Billed, retry=Retry(attempts=1))
        async def pay(bill: Billed) -> Paid:
            self.seen.append(bill.bill_id)
            if bill.amount < self.least:
                raise Permanent(f"less than {self.least}")
            return Paid(bill_id=bill.bill_id, amount=bill.amount)


class Desk:
    """A broker, and the command line beside it."""

    def __init__(self, settings: Settings, console: Console, stack: AsyncExitStack) -> None:
        self.settings = settings
        self._console = console
        self._stack = stack

    async def run(self, *services: Service, sagas: tuple[type[Saga], ...] = ()) -> Process:
        """Run services and sagas until the test ends."""
        transport = await self._stack.enter_async_context(connect(self.settings.broker_url, self.settings))
        return await self._stack.enter_async_context(
            Process(Parts(services, sagas), transport, self.settings, create_topics=True, partitions=1)
        )

    async def publish(self, *events: Event) -> None:
        async with (
            connect(self.settings.broker_url, self.settings) as transport,
            Publisher(transport, source="shop", settings=self.settings) as publisher,
        ):
            await publisher.publish(*events)

    async def saga(self, *arguments: object) -> Done:
        return await asyncio.to_thread(self._console, *arguments)

    async def completed(self, name: str) -> None:
        """Wait until a saga is COMPLETED."""
        for _ in range(300):
            done = await self.saga("status", name, "-o", "json")
            if done.code == exits.OK and done.json["phase"] == "COMPLETED":
                return
            await asyncio.sleep(0.1)
        raise AssertionError(done.out)

    async def letters(self, count: int, *options: object) -> list[dict[str, Any]]:
        """Wait until so many letters are listed; give them, the newest first."""
        found: list[dict[str, Any]] = []
        for _ in range(300):
            done = await self.saga("dlq", "list", *options, "-o", "json")
            assert done.code == exits.OK, done.err
            found = [validate(each, "saga.dead-letter/v1") for each in done.json]
            if len(found) == count:
                return found
            await asyncio.sleep(0.1)
        raise AssertionError(f"{len(found)} letters instead of {count}: {found}")


@pytest.fixture(params=["local", pytest.param("kafka", marks=pytest.mark.kafka)])
async def desk(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Desk]:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    broker = f"local:{tmp_path / 'broker.db'}"
    if request.param == "kafka":
        broker = f"kafka://{request.getfixturevalue('kafka_bootstrap')}"
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    monkeypatch.setenv("CHOREO_BROKER", broker)
    monkeypatch.setenv("CHOREO_TOPIC_PREFIX", f"{tmp_path.parent.name}.{tmp_path.name}.")
    async with AsyncExitStack() as stack:
        stack.callback(structlog.reset_defaults)
        yield Desk(load_settings(), Console(capsys, tmp_path), stack)


async def test_a_letter_tells_where_it_was_raised_and_what_its_schema_has_become(desk: Desk) -> None:
    await desk.run(Till().service)
    await desk.publish(Billed(bill_id="1", amount=5))
    [letter] = await desk.letters(1)
    schema = Billed.spec().schema
    assert schema is not None
    newer = {**schema, "fields": [*schema["fields"], {"name": "due", "type": ["null", "string"], "default": None}]}
    async with connect(desk.settings.broker_url, desk.settings) as transport:
        registry = open_registry(desk.settings, transport)
        await registry.register(subject_of("bills", "Billed"), newer)
        await registry.close()
    shown = (await desk.saga("dlq", "show", letter["id"])).out
    assert re.search(r"^  at       test_dlq\.py:\d+ pay < ", shown, re.MULTILINE)
    assert "  schema   since then: + due  null or string" in shown
    told = validate((await desk.saga("dlq", "show", letter["id"], "-o", "json")).json)
    assert [(each["change"], each["field"]) for each in told["schema_changes"]] == [("added", "due")]


async def test_a_letter_is_read_mended_at_its_service_and_sent_again(desk: Desk) -> None:
    till = Till()
    await desk.run(till.service, sagas=(Billing,))
    await desk.publish(Billed(bill_id="1", amount=5), Billed(bill_id="2", amount=500))
    [letter] = await desk.letters(1)
    assert (letter["event_type"], letter["key"], letter["service"], letter["handler"]) == ("Billed", "1", "till", "pay")
    assert (letter["error_class"], letter["message"], letter["state"]) == ("Permanent", "less than 100", "open")
    shown = await desk.saga("dlq", "show", letter["id"], "-o", "json")
    assert validate(shown.json)["body"] == {"bill_id": "1", "amount": 5}
    assert re.fullmatch(r"test_dlq\.py:\d+ pay < .+", shown.json["headers"]["dlq-stack"]), "where it was raised"
    assert shown.json["schema_changes"] == []
    till.least = 1
    done = await desk.saga("dlq", "retry", letter["id"], "--reason", "mended", "-o", "json")
    assert done.code == exits.OK, done.err
    assert validate(done.json, "saga.settled-letters/v1")["ids"] == [letter["id"]]
    await desk.completed("billing/1")
    assert till.seen == ["1", "2", "1"]
    await desk.letters(0)
    [settled] = await desk.letters(1, "--settled")
    assert settled["state"] == "retried"
    again = await desk.saga("dlq", "retry", letter["id"], "--reason", "mended")
    assert again.code == exits.NOT_ALLOWED
    assert "was retried by" in again.err


async def test_an_erasure_takes_the_words_of_the_dead_letters_too(desk: Desk) -> None:
    till = Till()
    await desk.run(till.service, sagas=(Billing,))
    await desk.publish(Billed(bill_id="1", amount=5), Billed(bill_id="2", amount=6))
    letters = await desk.letters(2)
    refused = await desk.saga("erase", "--key", "1", "--reason", "art. 17", "-y")
    assert refused.code == exits.NOT_ALLOWED, "the saga is open"
    till.least = 1
    mine, other = sorted(letters, key=lambda each: str(each["key"]))
    done = await desk.saga("dlq", "retry", mine["id"], "--reason", "mended")
    assert done.code == exits.OK, done.err
    await desk.completed("billing/1")
    dry = await desk.saga("erase", "billing/1", "--reason", "art. 17", "--dry-run", "-o", "json")
    assert validate(dry.json, "saga.erased/v1")["dead_letters"] == 1
    done = await desk.saga("erase", "billing/1", "--reason", "art. 17", "-y", "-o", "json")
    assert (done.code, validate(done.json, "saga.erased/v1")["dead_letters"]) == (exits.OK, 1)
    after = await desk.letters(2, "--settled")
    assert {(each["id"], each["state"]) for each in after} == {(mine["id"], "retried"), (other["id"], "open")}
    bodies = {
        each: (await desk.saga("dlq", "show", each, "-o", "json")).json["body"] for each in (mine["id"], other["id"])
    }
    assert bodies == {mine["id"]: None, other["id"]: {"bill_id": "2", "amount": 6}}
    assert (await desk.saga("dlq", "retry", other["id"], "--reason", "it is still whole")).code == exits.OK
    await desk.completed("billing/2")


async def test_a_replay_that_fails_comes_back_once(desk: Desk) -> None:
    till = Till()
    await desk.run(till.service)
    await desk.publish(Billed(bill_id="1", amount=5))
    [letter] = await desk.letters(1)
    await desk.saga("dlq", "retry", letter["id"], "--reason", "mended")
    [second] = await desk.letters(1)
    assert second["id"] != letter["id"]
    assert (second["event_id"], second["replays"]) == (letter["event_id"], 1)
    await asyncio.sleep(0.5)
    await desk.letters(1)


async def test_a_letter_of_a_service_that_is_down_is_refused_until_forced(desk: Desk) -> None:
    till = Till()
    process = await desk.run(till.service)
    await desk.publish(Billed(bill_id="1", amount=5))
    [letter] = await desk.letters(1)
    await process.stop()
    refused = await desk.saga("dlq", "retry", letter["id"], "--reason", "mended")
    assert refused.code == exits.NOT_ALLOWED
    assert "service till does not run" in refused.err
    assert (
        await desk.saga("dlq", "retry", letter["id"], "--reason", "mended", "--force", "--dry-run")
    ).code == exits.OK
    [still] = await desk.letters(1)
    assert still["state"] == "open"


async def test_many_are_a_batch_that_is_taken_up_again_where_it_was_left(desk: Desk) -> None:
    till = Till()
    await desk.run(till.service, sagas=(Billing,))
    await desk.publish(*(Billed(bill_id=str(number), amount=number) for number in range(4)))
    letters = [each["id"] for each in await desk.letters(4)]
    till.least = 0
    done = await desk.saga("dlq", "discard", *letters[:2], "--reason", "of no use", "-y", "-o", "json")
    assert sorted(validate(done.json, "saga.settled-letters/v1")["ids"]) == sorted(letters[:2])
    [batch] = (await desk.saga("batch", "list", "-o", "json")).json
    assert (batch["kind"], batch["state"], batch["applied"]) == ("dlq discard", "done", 2)

    def killed(connection: Connection) -> None:
        shape: dict[str, Any] = {"reason": "r", "about": "dead letters", "rate": 50, "now": 1, "by_hand": True}
        jobs.create(connection, "b-killed", "dlq retry", letters[1:], Who("ann"), **shape)

    database = await Database.open(desk.settings.store_url)
    await database.write(killed)
    await database.close()
    assert (await desk.saga("dlq", "discard", "--batch", "b-killed", "--reason", "x", "-y")).code == exits.USAGE
    assert (await desk.saga("batch", "pause", "b-killed")).code == exits.OK
    assert (await desk.saga("batch", "resume", "b-killed")).code == exits.OK
    again = await desk.saga("dlq", "retry", "--batch", "b-killed", "--reason", "mended", "-y", "-o", "json")
    assert sorted(again.json["ids"]) == sorted(letters[2:]), "one of them was settled by somebody else"
    told = (await desk.saga("batch", "show", "b-killed", "-o", "json")).json
    assert (told["state"], told["applied"]) == ("done", 3)
    rows = (await desk.saga("audit", "list", "--action", "dlq retry", "-o", "json")).json
    assert {row["details"]["letter"] for row in rows} == set(letters[2:])
    await desk.letters(0)


async def test_many_are_chosen_by_filter_and_need_a_yes(desk: Desk) -> None:
    till = Till()
    await desk.run(till.service)
    await desk.publish(*(Billed(bill_id=str(number), amount=number) for number in range(5)))
    await desk.letters(5)
    everything = await desk.saga("dlq", "retry", "--reason", "mended")
    assert everything.code == exits.USAGE
    assert "which letters?" in everything.err
    unasked = await desk.saga("dlq", "retry", "--service", "till", "--reason", "mended")
    assert unasked.code == exits.USAGE
    assert "5 dead letters" in unasked.err
    till.least = 0
    done = await desk.saga("dlq", "retry", "--service", "till", "--reason", "mended", "--rate", "1000", "-y")
    assert done.out == "5 dead letters: sent again\n"
    await desk.letters(0)
    for _ in range(1_200):
        if len(till.seen) == 10:
            break
        await asyncio.sleep(0.05)
    assert till.seen[5:] == [str(number) for number in range(5)]


async def test_a_body_is_edited_and_must_fit_its_schema(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    till = Till()
    await desk.run(till.service, sagas=(Billing,))
    await desk.publish(Billed(bill_id="1", amount=5))
    [letter] = await desk.letters(1)
    wrong = await desk.saga(
        "dlq", "edit", letter["id"], "--reason", "x", "--data", '{"bill_id": "1", "amount": "much"}'
    )
    assert wrong.code == exits.USAGE
    assert "does not fit its schema" in wrong.err
    monkeypatch.setenv("EDITOR", "sed -i s/5/500/")
    monkeypatch.delenv("VISUAL", raising=False)
    done = await desk.saga("dlq", "edit", letter["id"], "--reason", "a typing error in the shop")
    assert done.code == exits.OK, done.err
    await desk.completed("billing/1")
    [settled] = await desk.letters(1, "--settled")
    assert settled["settled"]["reason"] == "edited: a typing error in the shop"
    for command in ("edit", "skip"):
        again = await desk.saga("dlq", command, letter["id"], "--reason", "once more")
        assert again.code == exits.NOT_ALLOWED
        assert "was retried by" in again.err


async def test_letters_are_skipped_with_an_event_discarded_and_exported(desk: Desk, tmp_path: Path) -> None:
    till = Till()
    await desk.run(till.service, sagas=(Billing,))
    await desk.publish(Billed(bill_id="1", amount=5), Billed(bill_id="2", amount=6))
    second, first = await desk.letters(2)
    assert (first["key"], second["key"]) == ("1", "2")
    file = tmp_path / "letters.jsonl"
    assert (await desk.saga("dlq", "export", file)).code == exits.OK
    lines = [validate(json.loads(line)) for line in file.read_text().splitlines()]
    assert [line["body"]["amount"] for line in lines] == [6, 5]
    assert (await desk.saga("dlq", "export", file)).code == exits.USAGE  # it is not written over
    module = tmp_path / "till_events.py"
    module.write_text(
        "from choreo import Event\n\n\nclass Paid(Event, topic='payments', key='bill_id'):\n"
        "    bill_id: str\n    amount: int\n"
    )
    done = await desk.saga(
        "dlq", "skip", first["id"], "--reason", "paid in cash", "--with-event", f"{module}:Paid", "--data",
        '{"bill_id": "1", "amount": 5}',
    )  # fmt: skip
    assert done.code == exits.OK, done.err
    await desk.completed("billing/1")
    assert (await desk.saga("dlq", "discard", second["id"], "--reason", "a test order")).code == exits.OK
    await desk.letters(0)
    states = {each["key"]: each["state"] for each in await desk.letters(2, "--settled")}
    assert states == {"1": "skipped", "2": "discarded"}


def test_a_redriven_record_keeps_its_identity_and_leaves_the_failed_run_behind() -> None:
    from choreo.events.envelope import Delivery

    headers = (
        ("ce_id", b"e1"),
        ("ce_type", b"Billed"),
        ("saga-id", b"billing/1"),
        ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("mm2-source", b"other"),
        ("mine", b"kept"),
        ("replay-id", b"old"),
        ("replay-count", b"2"),
        ("dlq-service", b"till"),
        ("dlq-topic", b"bills"),
        ("dlq-partition", b"3"),
        ("dlq-offset", b"9"),
    )
    letter = read_letter(Delivery("bills.dlq", 0, 7, 1_000, b"1", b"{}", headers))
    record = redrive(letter, "new")
    assert record == Record(
        "bills",
        b"1",
        b"{}",
        (
            ("ce_id", b"e1"),
            ("ce_type", b"Billed"),
            ("saga-id", b"billing/1"),
            ("mine", b"kept"),
            ("replay-id", b"new"),
            ("replay-count", b"3"),
            ("replay-traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ),
    )


def test_a_foreign_record_keeps_the_id_that_its_first_place_gave_it() -> None:
    from choreo.events.envelope import Delivery

    first = Delivery("notes", 1, 5, 1_000, b"n", b"{}", ())
    told = (("dlq-topic", b"notes"), ("dlq-partition", b"1"), ("dlq-offset", b"5"))
    letter = read_letter(Delivery("notes.dlq", 0, 0, 2_000, b"n", b"{}", told))
    sent = redrive(letter, "r")
    again = Delivery(sent.topic, 1, 99, 3_000, sent.key, sent.value, sent.headers)
    assert read_envelope(again).id == letter.event_id == read_envelope(first).id
