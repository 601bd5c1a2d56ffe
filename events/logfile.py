"""The file behind `local:PATH`: a log of records, groups and committed offsets in SQLite, as plain blocking functions.

Several processes may use one file at once. Every change is one `BEGIN IMMEDIATE` transaction (a deferred one that
upgrades fails at once under contention). A record's row id is its partition's id and its offset in one number, so
appending and reading are the two things a B-tree does best. Signs of life go to a file of their own (R15), which may be
lost any time.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec.json import Decoder, Encoder

from .embedded import Offsets, commit_refused, in_turns, position_lost
from .envelope import Delivery, Headers, Record, TopicPartition
from .errors import StoreMismatch
from .groups import Group, View
from .partitioner import partition_for
from .sending import topic_missing
from .transport import TopicSpec
from .wal import write_ahead

BUSY_SECONDS = 10.0
"""How long to wait for another process that writes."""

_FORMAT = 1
_OFFSET_BITS = 40
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1
_SCHEMA = """
CREATE TABLE topic (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL,
    compacted INTEGER NOT NULL);
CREATE TABLE partition (id INTEGER PRIMARY KEY, topic INTEGER NOT NULL REFERENCES topic, number INTEGER NOT NULL,
    first INTEGER NOT NULL DEFAULT 0, next INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, number));
CREATE TABLE record (place INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, key BLOB, value BLOB, headers TEXT);
CREATE TABLE consumer_group (name TEXT PRIMARY KEY, version INTEGER NOT NULL, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE committed (consumer_group TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    next INTEGER NOT NULL, PRIMARY KEY (consumer_group, topic, partition)) WITHOUT ROWID;
"""
_HEARTS = "CREATE TABLE IF NOT EXISTS heartbeat (member TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID"


def monotonic() -> int:
    """Microseconds of the machine's monotonic clock, which all its processes share and no one can set."""
    return time.monotonic_ns() // 1_000


class LogFile:
    """One connection to the file; use it from one thread at a time.

    Args:
        path: the file; it is made with mode 0600 if it is not there.
        durable: whether a commit waits for the disk. Only appends need that: an offset that a power cut takes back is
            read a second time, and a write that waits takes all earlier ones with it.
        session: microseconds after which a member without signs of life is dropped.
        rebalance: microseconds that a member has for its drain.
        beat: microseconds between signs of life.
    """

    def __init__(self, path: Path, *, durable: bool, session: int, rebalance: int, beat: int) -> None:
        self._session, self._rebalance, self._beat = session, rebalance, beat
        path.parent.mkdir(parents=True, exist_ok=True)
        self._log = _connect(path, "FULL" if durable else "NORMAL")
        try:
            self._prepare(path)
            self._hearts = _hearts(Path(f"{path}-heartbeat"))
        except BaseException:
            self._log.close()
            raise
        self._topics: dict[str, list[int]] = {}
        self._names: dict[int, TopicPartition] = {}
        self._version = -1
        self._ends: set[tuple[int, int]] = set()
        self._groups = -1
        self._beaten: dict[str, int] = {}
        self._spread = 0
        self._patient = True

    def _prepare(self, path: Path) -> None:
        found = self._log.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            with self._write():
                if self._log.execute("PRAGMA user_version").fetchone()[0] == 0:
                    for statement in _SCHEMA.split(";"):
                        self._log.execute(statement)
                    self._log.execute(f"PRAGMA user_version={_FORMAT}")
        elif found > _FORMAT:
            raise StoreMismatch(
                f"the broker file {path} has format {found}, this release of choreo knows {_FORMAT}: "
                "it was written by a newer release; upgrade choreo here"
            )

    def close(self) -> None:
        """Close both files."""
        self._hearts.close()
        self._log.close()

    def be_patient(self, patient: bool) -> None:
        """Wait for another process that writes from now on, or fail at once with SQLITE_BUSY."""
        if patient != self._patient:
            self._log.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1_000 if patient else 0:.0f}")
            self._patient = patient

    @contextmanager
    def _write(self) -> Iterator[None]:
        yield from self._transaction("BEGIN IMMEDIATE")

    @contextmanager
    def _read(self) -> Iterator[None]:
        yield from self._transaction("BEGIN")

    def _transaction(self, begin: str) -> Iterator[None]:
        self._log.execute(begin)
        try:
            yield
            self._log.execute("COMMIT")
        except BaseException:
            if self._log.in_transaction:
                self._log.execute("ROLLBACK")
            raise

    # -- topics -------------------------------------------------------------------------------------------------------

    def topics(self) -> dict[str, int]:
        """Give the number of partitions of each topic."""
        self._load_topics()
        return {name: len(ids) for name, ids in self._topics.items()}

    def create_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        """Create those that do not exist; give their names."""
        created = []
        with self._write():
            for spec in specs:
                row = self._log.execute(
                    "INSERT INTO topic (name, partitions, compacted) VALUES (?, ?, ?) ON CONFLICT DO NOTHING "
                    "RETURNING id",
                    (spec.name, spec.partitions, spec.compacted),
                ).fetchone()
                if row is not None:
                    numbers = [(row[0], number) for number in range(spec.partitions)]
                    self._log.executemany("INSERT INTO partition (topic, number) VALUES (?, ?)", numbers)
                    created.append(spec.name)
        return created

    def _load_topics(self) -> None:
        rows = self._log.execute(
            "SELECT topic.name, partition.id, number FROM partition JOIN topic ON topic.id = partition.topic "
            "ORDER BY topic.name, number"
        ).fetchall()
        topics: dict[str, list[int]] = {}
        for name, id_, number in rows:
            topics.setdefault(name, []).append(id_)
            self._names[id_] = TopicPartition(name, number)
        self._topics = topics

    def _id(self, place: TopicPartition) -> int:
        for attempt in (0, 1):
            ids = self._topics.get(place.topic)
            if ids is not None and 0 <= place.partition < len(ids):
                return ids[place.partition]
            if attempt == 0:
                self._load_topics()
        raise topic_missing([place.topic])

    # -- records ------------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[Record], now: int) -> Offsets:
        """Append checked records as one transaction; give the new ends.

        Args:
            records: in order.
            now: milliseconds, for those without a timestamp.
        """
        if any(record.topic not in self._topics for record in records):
            self._load_topics()
        ends: dict[int, int] = {}
        rows: list[tuple[int, int, bytes | None, bytes | None, str | None]] = []
        with self._write():
            for record in records:
                ids = self._topics[record.topic]
                if record.partition is not None:
                    id_ = ids[record.partition]
                elif record.key is not None:
                    id_ = ids[partition_for(record.key, len(ids))]
                else:
                    self._spread += 1
                    id_ = ids[self._spread % len(ids)]
                end = ends.get(id_)
                if end is None:
                    end = self._log.execute("SELECT next FROM partition WHERE id = ?", (id_,)).fetchone()[0]
                ends[id_] = end + 1
                timestamp = now if record.timestamp is None else record.timestamp
                headers = _dump(record.headers) if record.headers else None
                rows.append((id_ << _OFFSET_BITS | end, timestamp, record.key, record.value, headers))
            self._log.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?)", rows)
            self._log.executemany("UPDATE partition SET next = ? WHERE id = ?", [(end, i) for i, end in ends.items()])
        return {self._names[id_]: end for id_, end in ends.items()}

    def fetch(self, positions: Mapping[TopicPartition, int], most: int) -> list[Delivery]:
        """Read from these positions on, in their order.

        Raises:
            PositionLost: a position lies outside the log.
        """
        return in_turns(positions, most, self._from)  # no transaction: of each partition one statement reads

    def _from(self, place: TopicPartition, offset: int, most: int) -> list[Delivery]:
        id_ = self._id(place)
        records = self._range(place, id_, offset, _OFFSET_MASK, most)
        if not records or records[0].offset != offset:  # the end, a hole, or no place in the log any more
            first, end = self._bounds(id_)
            if not first <= offset <= end:
                raise position_lost(place, offset, first, end)
        return records

    def snapshot(self, topic: str) -> list[Delivery]:
        """Read all that a topic holds now."""
        found: list[Delivery] = []
        with self._read():
            if topic not in self._topics:
                self._load_topics()
            if topic not in self._topics:
                raise topic_missing([topic])
            for number, id_ in enumerate(self._topics[topic]):
                found += self._range(TopicPartition(topic, number), id_, *self._bounds(id_), -1)
        return found

    def _range(self, place: TopicPartition, id_: int, start: int, end: int, most: int) -> list[Delivery]:
        rows = self._log.execute(
            "SELECT place, timestamp, key, value, headers FROM record WHERE place >= ? AND place < ? "
            "ORDER BY place LIMIT ?",
            (id_ << _OFFSET_BITS | start, id_ << _OFFSET_BITS | end, most),
        )
        topic, number = place
        return [
            Delivery(topic, number, row & _OFFSET_MASK, timestamp, key, value, _load(headers) if headers else ())
            for row, timestamp, key, value, headers in rows
        ]

    def _bounds(self, id_: int) -> tuple[int, int]:
        first, end = self._log.execute("SELECT first, next FROM partition WHERE id = ?", (id_,)).fetchone()
        return first, end

    def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """Give the first offset in the log and the end of each partition."""
        with self._read():
            return {place: self._bounds(self._id(place)) for place in partitions}

    def offsets_at(self, partitions: Sequence[TopicPartition], timestamp: int) -> Offsets:
        """Give the first offset at or after a time, the end where none is; reads the partition from its beginning."""
        found: Offsets = {}
        with self._read():
            for place in partitions:
                id_ = self._id(place)
                row = self._log.execute(
                    "SELECT place FROM record WHERE place >= ? AND place < ? AND timestamp >= ? ORDER BY place LIMIT 1",
                    (id_ << _OFFSET_BITS, (id_ + 1) << _OFFSET_BITS, timestamp),
                ).fetchone()
                found[place] = self._bounds(id_)[1] if row is None else row[0] & _OFFSET_MASK
        return found

    def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        """Drop the records before these offsets, as retention does."""
        with self._write():
            for place, offset in before.items():
                id_ = self._id(place)
                self._log.execute(
                    "DELETE FROM record WHERE place >= ? AND place < ?",
                    (id_ << _OFFSET_BITS, id_ << _OFFSET_BITS | offset),
                )
                self._log.execute("UPDATE partition SET first = max(first, min(?, next)) WHERE id = ?", (offset, id_))

    def news(self) -> tuple[Offsets | None, bool]:
        """See what other connections changed since the last call.

        Returns:
            The end of every partition that has grown, or None if nothing changed; and whether a group did.
        """
        version = self._log.execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return None, False
        with self._read():
            ends = set(self._log.execute("SELECT id, next FROM partition").fetchall())
            grown = ends - self._ends
            if any(id_ not in self._names for id_, _ in grown):
                self._load_topics()
            groups = self._log.execute("SELECT total(version) FROM consumer_group").fetchone()[0]
        moved, self._groups, self._version, self._ends = groups != self._groups, groups, version, ends
        return {self._names[id_]: end for id_, end in grown}, moved

    # -- groups -------------------------------------------------------------------------------------------------------

    def join(self, group: str, member: str, client: str, topics: Sequence[str]) -> None:
        """Let a member in."""
        self._show_life(member, monotonic())
        self._change(group, lambda found, now: found.join(member, client, topics, now))

    def rejoin(self, group: str, member: str) -> None:
        """Note that a member has let go of its partitions."""
        self._change(group, lambda found, _: found.rejoin(member))

    def leave(self, group: str, member: str) -> None:
        """Let a member go."""
        self._change(group, lambda found, now: found.remove([member], now))
        self._hearts.execute("DELETE FROM heartbeat WHERE member = ?", (member,))
        self._beaten.pop(member, None)

    def look(self, group: str, member: str) -> tuple[View | None, bool]:
        """Show a member its group, and life to the group when that is due; say whether others were found dead."""
        found, now, changed = self.group(group), monotonic(), False
        if now - self._beaten.get(member, -self._beat) >= self._beat:
            if member in found.members:
                self._show_life(member, now)
            gone = self._dead(found, now)
            if gone:
                found = self._change(group, lambda again, when: again.remove(self._dead(again, when), when))
                self._hearts.executemany("DELETE FROM heartbeat WHERE member = ?", [(name,) for name in gone])
                changed = True
        return found.view(member), changed

    def group(self, name: str) -> Group:
        """Read a group; one that is unknown is empty."""
        row = self._log.execute("SELECT state FROM consumer_group WHERE name = ?", (name,)).fetchone()
        return Group() if row is None else Group.load(row[0])

    def commit(self, group: str, member: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit offsets if the member holds all these partitions.

        Raises:
            CommitRefused: it does not; nothing was committed.
        """
        with self._write():
            if not self.group(group).owns(member, offsets):
                raise commit_refused(group, offsets)
            self._log.executemany(
                "INSERT OR REPLACE INTO committed VALUES (?, ?, ?, ?)",
                [(group, place.topic, place.partition, offset) for place, offset in offsets.items()],
            )

    def committed(self, group: str) -> Offsets:
        """Give the group's committed offsets."""
        rows = self._log.execute("SELECT topic, partition, next FROM committed WHERE consumer_group = ?", (group,))
        return {TopicPartition(topic, number): offset for topic, number, offset in rows}

    def _change(self, name: str, work: Callable[[Group, int], None]) -> Group:
        with self._write():
            group = self.group(name)
            work(group, monotonic())
            if not group.topics() <= self._topics.keys():
                self._load_topics()
            group.settle({topic: len(self._topics.get(topic, ())) for topic in group.topics()})
            self._log.execute(
                "INSERT INTO consumer_group VALUES (?, 1, ?) "
                "ON CONFLICT DO UPDATE SET version = version + 1, state = excluded.state",
                (name, group.dump()),
            )
        return group

    def _show_life(self, member: str, now: int) -> None:
        self._hearts.execute("INSERT OR REPLACE INTO heartbeat VALUES (?, ?)", (member, now))
        self._beaten[member] = now

    def _dead(self, group: Group, now: int) -> list[str]:
        seen = dict(self._hearts.execute("SELECT member, at FROM heartbeat").fetchall())
        # A member whose sign is missing (the file may be lost) gets one session; one from the future is of an earlier
        # boot of the machine.
        unseen = [(member, now) for member in group.members if member not in seen]
        if unseen:
            self._hearts.executemany("INSERT OR IGNORE INTO heartbeat VALUES (?, ?)", unseen)
        dead = {member for member in group.members if not -self._session < seen.get(member, now) - now <= self._session}
        return sorted(dead.union(group.laggards(now, self._rebalance)))


def _connect(path: Path, synchronous: str) -> sqlite3.Connection:
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # SQLite gives its side files the same mode
    connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False)
    try:
        write_ahead(connection, BUSY_SECONDS)
        for pragma in (f"synchronous={synchronous}", "journal_size_limit=67108864", "wal_autocheckpoint=4000"):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _hearts(path: Path) -> sqlite3.Connection:
    for attempt in (0, 1):
        try:
            connection = _connect(path, "OFF")
            connection.execute(_HEARTS)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # unsynced, so a power cut may have torn it; nothing in it is worth keeping
            if attempt:
                raise
            for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                name.unlink(missing_ok=True)
        else:
            return connection
    raise AssertionError("unreachable")


def _dump(headers: Headers) -> str:
    # Latin-1 maps bytes to text one to one, and what choreo writes is ASCII: readable in any SQLite tool.
    return _WRITER.encode([(name, value.decode("latin-1")) for name, value in headers]).decode()


def _load(text: str) -> Headers:
    return tuple([(name, value.encode("latin-1")) for name, value in _READER.decode(text)])


_WRITER = Encoder()
_READER = Decoder(list[tuple[str, str]])
