"""What only the broker in a file has: several processes, durability, sessions, and files that may be wrong."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from choreo.events.aside import Aside
from choreo.events.embedded import Bell, Offsets
from choreo.events.envelope import Delivery, Record, TopicPartition
from choreo.events.errors import BrokerUnreachable, CommitRefused, ConfigurationError, StoreMismatch
from choreo.events.local import _CALM, _IDLE, LocalBroker
from choreo.events.logfile import LogFile
from choreo.events.transport import Consumer, TopicSpec

PATIENCE = 60

# Sends numbered records, one batch after the other, and prints the last number after each acknowledgement.
SENDER = """
import asyncio, sys
from pathlib import Path
from choreo.events.envelope import Record
from choreo.events.local import LocalBroker

async def main(path, name):
    async with LocalBroker(Path(path)) as broker:
        number = 0
        while True:
            batch = [Record("orders", b"%d" % (n % 20), b"%s-%d" % (name, n)) for n in range(number, number + 50)]
            await broker.send(batch)
            number += 50
            print(number, flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2].encode()))
"""

# A member of the group that reads, says what it holds, and commits nothing.
READER = """
import asyncio, sys
from pathlib import Path
from choreo.events.local import LocalBroker

async def main(path):
    async with LocalBroker(Path(path), session=1.5) as broker:
        consumer = await broker.subscribe("group", ["orders"], client="other")
        while True:
            await consumer.poll(most=10, timeout=0.2)
            print(len(consumer.assignment()), flush=True)

asyncio.run(main(sys.argv[1]))
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, text=True, bufsize=1
    )


async def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), PATIENCE)).strip()


def kill(process: subprocess.Popen[str]) -> str:
    """End a process without warning; give what it had printed."""
    process.kill()
    process.wait(PATIENCE)
    assert process.stdout is not None
    with process.stdout:
        return process.stdout.read()  # not `communicate`, which forgets what `readline` has buffered


async def poll_until(consumer: Consumer, condition: Callable[[], bool]) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(PATIENCE):
        while not condition():
            found += await consumer.poll(most=1000, timeout=0.1)
    return found


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    place = tmp_path / "deep" / "broker.db"
    async with LocalBroker(place) as broker:
        await broker.create_topics([TopicSpec("orders", 4)])
    return place


async def test_what_killed_processes_had_acknowledged_is_there_in_order(path: Path) -> None:
    senders = {name: start(SENDER, path, name) for name in ("a", "b")}
    acknowledged = dict.fromkeys(senders, 0)
    for _ in range(10):
        for name, process in senders.items():
            acknowledged[name] = int(await line(process))
    for name, process in senders.items():
        acknowledged[name] = int([acknowledged[name], *kill(process).split()][-1])
    async with LocalBroker(path) as broker:
        found = await broker.snapshot("orders")
        offsets = [record.offset for record in found]
        ends = await broker.end_offsets(["orders"])
    assert sum(ends.values()) == len(offsets)
    for name, count in acknowledged.items():
        numbers = [int(v[2:]) for record in found if (v := (record.value or b"").decode()).startswith(f"{name}-")]
        assert len(numbers) % 50 == 0  # a batch is there as a whole or not at all
        assert sorted(numbers) == list(range(len(numbers)))
        assert count <= len(numbers) <= count + 50
        for key in range(20):
            of_key = [number for number in numbers if number % 20 == key]
            assert of_key == sorted(of_key)


async def test_a_reader_sees_what_another_process_appends(path: Path) -> None:
    async with LocalBroker(path) as broker:
        consumer = await broker.subscribe("group", ["orders"])
        assert await consumer.poll(most=10, timeout=0.5) == []
        sender = start(SENDER, path, "a")
        found = await poll_until(consumer, lambda: sum(consumer.position(p) or 0 for p in consumer.assignment()) >= 500)
        kill(sender)
    assert len(found) >= 500


async def test_what_a_process_writes_itself_is_no_reason_to_look_at_the_file_more_often(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def look(log: LogFile) -> tuple[Offsets | None, bool]:
        nonlocal looks
        looks += 1
        return news(log)

    news = LogFile.news
    monkeypatch.setattr(LogFile, "news", look)
    async with LocalBroker(path) as broker:
        await broker.subscribe("group", ["orders"])
        began = time.monotonic()
        for number in range(200):
            await broker.send([Record("orders", b"k", b"%d" % number)])
            await asyncio.sleep(0.005)
        seconds = time.monotonic() - began
    assert looks <= 2 * _CALM + seconds / _IDLE, "often at first, when all is news, then as seldom as in an idle file"
    assert looks >= 1


async def test_the_partitions_of_a_killed_process_move_when_its_session_is_over(path: Path) -> None:
    async with LocalBroker(path, session=4) as broker:
        consumer = await broker.subscribe("group", ["orders"], client="one")
        await poll_until(consumer, lambda: len(consumer.assignment()) == 4)
        other = start(READER, path)
        await poll_until(consumer, lambda: len(consumer.assignment()) == 2)
        while await line(other) != "2":
            await consumer.poll(most=10, timeout=0.05)
        kill(other)
        assert (await broker.group("group")).members == ("one", "other")  # nobody knows yet
        await poll_until(consumer, lambda: len(consumer.assignment()) == 4)
        assert (await broker.group("group")).members == ("one",)


async def test_a_frozen_process_loses_its_partitions_and_joins_anew(path: Path) -> None:
    async with LocalBroker(path, session=1.5) as broker:
        frozen = start(READER, path)
        while await line(frozen) != "4":
            pass
        frozen.send_signal(signal.SIGSTOP)
        consumer = await broker.subscribe("group", ["orders"])
        await poll_until(consumer, lambda: len(consumer.assignment()) == 4)
        frozen.send_signal(signal.SIGCONT)  # it finds itself expired, and joins anew
        await poll_until(consumer, lambda: len(consumer.assignment()) == 2)
        while await line(frozen) != "2":
            await consumer.poll(most=10, timeout=0.05)
        kill(frozen)


async def test_records_come_again_after_a_member_died_without_committing(path: Path) -> None:
    async with LocalBroker(path, session=1) as broker:
        await broker.send([Record("orders", b"k", b"%d" % n) for n in range(10)])
        dead = await broker.subscribe("group", ["orders"])
        first = await poll_until(dead, lambda: sum(dead.position(p) or 0 for p in dead.assignment()) == 10)
        place = first[0].place
        await dead.commit({place: 4})
        await dead.kill()  # type: ignore[attr-defined]
        heir = await broker.subscribe("group", ["orders"])
        again = await poll_until(heir, lambda: heir.position(place) == 10)
        assert [record.offset for record in again] == list(range(4, 10))
        with pytest.raises(CommitRefused, match="group 'group' has moved on"):
            await dead.commit({place: 10})
        assert await heir.committed([place]) == {place: 4}


async def test_a_member_that_drains_for_too_long_is_left_behind(path: Path) -> None:
    may = asyncio.Event()

    class Slow:
        async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
            await may.wait()

        async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
            pass

    async with LocalBroker(path, session=1, rebalance=0.5) as broker:
        slow = await broker.subscribe("group", ["orders"], listener=Slow())
        await poll_until(slow, lambda: len(slow.assignment()) == 4)
        other = await broker.subscribe("group", ["orders"])
        held = slow.assignment()
        await poll_until(other, lambda: len(other.assignment()) == 4)
        assert slow.assignment() == held  # it still drains, and does not know
        with pytest.raises(CommitRefused):
            await slow.commit(dict.fromkeys(held, 1))
        may.set()


async def test_its_files_are_for_their_owner_only(path: Path) -> None:
    async with LocalBroker(path) as broker:
        await broker.send([Record("orders", b"k", b"v")])
        files = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert {"broker.db", "broker.db-wal", "broker.db-heartbeat"} <= files.keys()
    assert set(files.values()) == {0o600}


async def test_sends_that_meet_share_one_transaction(path: Path) -> None:
    async with LocalBroker(path) as broker:
        await broker.send([Record("orders", b"k", b"v")])
        before = _commits(path)
        await asyncio.gather(*(broker.send([Record("orders", b"k", b"v")]) for _ in range(100)))
        assert _commits(path) - before <= 10
        assert len(await broker.snapshot("orders")) == 101


def _commits(path: Path) -> int:
    """Count the commits in the write-ahead log by the frames that end one (SQLite file format, section 4.1)."""
    data = path.with_name(path.name + "-wal").read_bytes()
    size = int.from_bytes(data[8:12], "big")
    salts = data[16:24]
    frames = range(32, len(data), 24 + size)
    return sum(1 for at in frames if data[at + 8 : at + 16] == salts and data[at + 4 : at + 8] != bytes(4))


async def test_a_lost_or_torn_heartbeat_file_costs_nothing(path: Path) -> None:
    hearts = path.with_name("broker.db-heartbeat")
    hearts.write_bytes(b"torn" * 1000)
    async with LocalBroker(path, session=1) as broker:
        consumer = await broker.subscribe("group", ["orders"])
        await poll_until(consumer, lambda: len(consumer.assignment()) == 4)


async def test_a_file_of_a_newer_release_is_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=7")
    connection.close()
    with pytest.raises(StoreMismatch, match=r"format 7, this release of choreo knows 1.*upgrade choreo"):
        async with LocalBroker(path):
            pass


async def test_a_file_that_is_no_broker_gets_one_clear_line(tmp_path: Path) -> None:
    wrong = tmp_path / "notes.txt"
    wrong.write_text("not a database, but long enough to be taken for one by its size" * 20)
    with pytest.raises(ConfigurationError, match=r"cannot open the broker file .*notes.txt: file is not a database"):
        async with LocalBroker(wrong):
            pass
    with pytest.raises(ConfigurationError, match=r"cannot open the broker file .*notes.txt/broker.db: File exists"):
        async with LocalBroker(wrong / "broker.db"):
            pass


async def test_fault_39_a_file_that_another_program_locks_is_waited_for_and_then_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreo.events.logfile.BUSY_SECONDS", 0.2)
    other = sqlite3.connect(path, isolation_level=None)
    async with LocalBroker(path) as broker:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BrokerUnreachable, match=r"broker.db does not do its work: database is locked") as locked:
            await broker.send([Record("orders", b"k", b"v")])
        assert locked.value.retryable
        other.execute("ROLLBACK")
        await broker.send([Record("orders", b"k", b"v")])
        assert len(await broker.snapshot("orders")) == 1
    other.close()


async def test_whoever_sends_while_another_program_writes_holds_nobody_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Aside, "quick", True)  # a disk on which sends are done on the spot
    other = sqlite3.connect(path, isolation_level=None)
    async with LocalBroker(path) as broker:
        await broker.send([Record("orders", b"k", b"first")])
        other.execute("BEGIN IMMEDIATE")
        sending = asyncio.create_task(broker.send([Record("orders", b"k", b"last")]))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not sending.done(), "the loop went on while it waited"
        other.execute("COMMIT")
        await sending
        assert [each.value for each in await broker.snapshot("orders")] == [b"first", b"last"]
    other.close()


async def test_news_of_one_topic_wake_who_waits_for_it_and_let_others_sleep() -> None:
    bell = Bell()
    waiting = {
        name: asyncio.create_task(bell.wait(bell.count, None, topics))
        for name, topics in {"orders": ("orders",), "payments": ("payments",), "any": ()}.items()
    }
    await asyncio.sleep(0)
    bell.ring({"orders", "returns"})
    await asyncio.wait({waiting["orders"], waiting["any"]})
    await asyncio.sleep(0)
    assert not waiting["payments"].done()
    bell.ring()  # a group has changed: everybody looks
    await waiting["payments"]
