"""The embedded broker (`local:PATH`): a durable log in one SQLite file, for several processes on one machine.

An acknowledged send is on the disk (WAL, `synchronous=FULL`). What writes has two threads of this connection: one that
waits for the disk, one for what is not worth that; where neither the disk nor another process makes it wait, it is done
on the spot (`aside`). Records and news are read where they are asked for: in WAL mode nobody holds up a reader, and two
switches of threads cost more than most reads. News from the same process arrive at once; those of other processes are
seen by looking at the file's change counter, often while they write and seldom while they do not.
"""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from .aside import Aside
from .clock import SECOND, Clock, system_clock
from .embedded import REBALANCE, SESSION, Bell, EmbeddedConsumer, Offsets
from .envelope import Delivery, Record, TopicPartition
from .errors import BrokerUnreachable, ConfigurationError
from .groups import View
from .logfile import LogFile
from .sending import Joiner, check_records, check_spec, topic_missing
from .transport import Begin, Consumer, GroupInfo, Listener, TopicInfo, TopicSpec

T = TypeVar("T")

_BUSY = 0.003
_IDLE = 0.02
_CALM = 40  # looks without news of other processes until they count as idle


class Busy(Exception):
    """Another process writes at this moment; nothing was done."""


class _Hub:
    """What the connections of one process to one file tell each other."""

    def __init__(self) -> None:
        self.bell = Bell()
        self.moves = Bell()
        self.ends: Offsets = {}
        self.writing = 0  # sends under way: news may be theirs

    def learn(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Take in new ends; the bell rings if a partition has grown. Say whether one has."""
        grown = {place: end for place, end in ends.items() if self.ends.get(place, -1) < end}
        if grown:
            self.ends.update(grown)
            self.bell.ring({place.topic for place in grown})
        return bool(grown)


_HUBS: WeakValueDictionary[Path, _Hub] = WeakValueDictionary()


class LocalBroker:
    """A connection to the broker in a file; open it with `async with`.

    Args:
        path: the file; made with mode 0600 if it is not there, beside it `PATH-heartbeat` and SQLite's own files.
        clock: gives record timestamps.
        session: seconds without a sign of life after which a member is dropped.
        rebalance: seconds that a member has for its drain.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock = system_clock,
        session: float = SESSION,
        rebalance: float = REBALANCE,
    ) -> None:
        self._path = path
        self._clock = clock
        self._session = session
        self._rebalance = rebalance
        self._depth = 0
        self._consumers: set[EmbeddedConsumer] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._counts: dict[str, int] = {}
        self._joiner = Joiner(self._append)

    @property
    def url(self) -> str:
        """The address, e.g. `local:.choreo/broker.db`."""
        return f"local:{self._path}"

    @property
    def bell(self) -> Bell:
        """Rung for new records."""
        return self._hub.bell

    @property
    def moves(self) -> Bell:
        """Rung when a group may have changed."""
        return self._hub.moves

    @property
    def beat(self) -> float | None:
        """Seconds between signs of life."""
        return self._session / 4

    async def __aenter__(self) -> LocalBroker:
        self._depth += 1
        if self._depth > 1:
            return self
        self._hub = _HUBS.setdefault(self._path.absolute(), _Hub())
        self._writer = _Thread(self._path, durable=True, session=self._session, rebalance=self._rebalance)
        self._member = _Thread(self._path, durable=False, session=self._session, rebalance=self._rebalance)
        self._reader = _Opened(self._path, durable=False, session=self._session, rebalance=self._rebalance)
        try:
            await self._writer.open()
            await self._member.open()
            self._reader.open()
        except BaseException:
            self._depth = 0
            await self._close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._depth > 1:
            self._depth -= 1
            return
        try:
            for consumer in tuple(self._consumers):
                await consumer.close()
            await self._joiner.close()
        finally:
            self._depth = 0
            if self._watcher is not None:
                self._watcher.cancel()
                await asyncio.wait([self._watcher])
                self._watcher = None
            await self._close()
            del self._hub  # the process forgets the file's ends with its last connection

    async def _close(self) -> None:
        self._reader.close()
        await self._member.close()
        await self._writer.close()

    # -- records ------------------------------------------------------------------------------------------------------

    async def send(self, records: Sequence[Record]) -> None:
        """See `Transport.send`; here all records are written or none, sends that meet share one transaction."""
        if not records:
            return
        self._check_open()
        if any(record.topic not in self._counts for record in records):
            self._counts = self._reader.call(LogFile.topics)
        check_records(records, self._counts)
        await self._joiner.send(records)

    async def _append(self, records: Sequence[Record]) -> None:
        now = self._clock() // 1_000
        hub = self._hub
        hub.writing += 1
        try:
            hub.learn(await self._writer.promptly(lambda log: log.append(records, now)))
        finally:
            hub.writing -= 1

    async def fetch(self, positions: Mapping[TopicPartition, int], most: int) -> list[Delivery]:
        """Read from these positions on, in their order; costs nothing where all are at the known end."""
        ends = self._hub.ends
        wanted = {place: offset for place, offset in positions.items() if ends.get(place, -1) != offset}
        if not wanted:
            return []
        found = self._reader.call(lambda log: log.fetch(wanted, most))
        if not found:  # we knew no end, or an old one
            self._hub.learn(wanted)
        return found

    async def snapshot(self, topic: str) -> list[Delivery]:
        """See `Transport.snapshot`."""
        self._check_open()
        return self._reader.call(lambda log: log.snapshot(topic))

    async def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """Give the first offset in the log and the end of each partition."""
        return self._reader.call(lambda log: log.bounds(partitions))

    async def offsets_at(self, partitions: Sequence[TopicPartition], timestamp: int) -> Offsets:
        """See `Consumer.offsets_at`."""
        return self._reader.call(lambda log: log.offsets_at(partitions, timestamp))

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        """See `Transport.delete_records`."""
        await self._writer.call(lambda log: log.delete_records(before))

    # -- topics -------------------------------------------------------------------------------------------------------

    async def topics(self, names: Collection[str] | None = None) -> dict[str, TopicInfo]:
        """See `Transport.topics`."""
        self._check_open()
        self._counts = self._reader.call(LogFile.topics)
        return {name: TopicInfo(name, count) for name, count in self._counts.items() if names is None or name in names}

    async def create_topics(self, topics: Sequence[TopicSpec]) -> list[str]:
        """See `Transport.create_topics`."""
        self._check_open()
        for spec in topics:
            check_spec(spec)
        return await self._writer.call(lambda log: log.create_topics(topics))

    async def end_offsets(self, topics: Sequence[str]) -> Offsets:
        """See `Transport.end_offsets`."""
        found = await self.topics(topics)
        missing = [name for name in topics if name not in found]
        if missing:
            raise topic_missing(missing)
        places = [TopicPartition(name, number) for name in topics for number in range(found[name].partitions)]
        return {place: end for place, (_, end) in (await self.bounds(places)).items()}

    # -- groups -------------------------------------------------------------------------------------------------------

    async def subscribe(
        self,
        group: str,
        topics: Sequence[str],
        *,
        listener: Listener | None = None,
        begin: Begin = "earliest",
        client: str = "choreo",
    ) -> Consumer:
        """See `Transport.subscribe`; the group is joined with the first `poll`."""
        found = await self.topics(topics)
        missing = sorted(name for name in set(topics) if name not in found)
        if missing:
            raise topic_missing(missing)
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(), name=f"watch {self.url}")
        member = f"{client}-{uuid.uuid4().hex[:12]}"
        consumer = EmbeddedConsumer(self, member, group, topics, listener, begin, client)
        self._consumers.add(consumer)
        return consumer

    async def group(self, name: str) -> GroupInfo:
        """See `Transport.group`."""
        self._check_open()
        group = await self._member.call(lambda log: log.group(name))
        return GroupInfo(name, group.clients(), self._reader.call(lambda log: log.committed(name)))

    async def join(self, group: str, member: str, client: str, topics: Sequence[str]) -> None:
        """Let a member in."""
        await self._member.call(lambda log: log.join(group, member, client, topics))
        self._hub.moves.ring()

    async def look(self, group: str, member: str) -> View | None:
        """Show a member its group."""
        view, changed = await self._member.call(lambda log: log.look(group, member))
        if changed:
            self._hub.moves.ring()
        return view

    async def rejoin(self, group: str, member: str) -> None:
        """Note that a member has let go of its partitions."""
        await self._member.call(lambda log: log.rejoin(group, member))
        self._hub.moves.ring()

    async def leave(self, group: str, member: str) -> None:
        """Let a member go."""
        self._consumers = {consumer for consumer in self._consumers if consumer.member != member}
        await self._member.call(lambda log: log.leave(group, member))
        self._hub.moves.ring()

    def attend(self, group: str) -> float | None:
        """The members themselves notice the dead, with every sign of life."""
        return None

    async def commit(self, group: str, member: str, offsets: Mapping[TopicPartition, int]) -> None:
        """See `Consumer.commit`."""
        await self._member.promptly(lambda log: log.commit(group, member, offsets))

    async def committed(self, group: str, partitions: Sequence[TopicPartition]) -> Offsets:
        """See `Consumer.committed`."""
        found = self._reader.call(lambda log: log.committed(group))
        return {place: found[place] for place in partitions if place in found}

    def _check_open(self) -> None:
        if not self._depth:
            raise ConfigurationError(f"the broker {self.url!r} is not open; use `async with connect(...)`")

    async def _watch(self) -> None:
        """See what other processes write."""
        quiet = 0
        while True:
            try:
                ends, moved = self._reader.call(LogFile.news)
            except BrokerUnreachable:  # whoever polls meets the same error and decides
                ends, moved = None, False
            if ends is not None and self._hub.learn(ends) and not self._hub.writing:
                quiet = 0  # another process is at work: what this one has written is known already
            if moved:
                self._hub.moves.ring()
            quiet += 1
            await asyncio.sleep(_BUSY if quiet < _CALM else _IDLE)


class _Opened:
    """One connection to the file, used where it is asked for."""

    def __init__(self, path: Path, *, durable: bool, session: float, rebalance: float) -> None:
        self._path = path
        self._durable = durable
        self._session = round(session * SECOND)
        self._rebalance = round(rebalance * SECOND)
        self._log: LogFile | None = None

    def open(self) -> None:
        """Open the file.

        Raises:
            ConfigurationError: it is no broker file, or its place cannot be written.
        """
        try:
            self._log = LogFile(
                self._path,
                durable=self._durable,
                session=self._session,
                rebalance=self._rebalance,
                beat=self._session // 4,
            )
        except sqlite3.DatabaseError as error:
            raise ConfigurationError(f"cannot open the broker file {self._path}: {error}") from error
        except OSError as error:
            raise ConfigurationError(f"cannot open the broker file {self._path}: {error.strerror}") from error

    def call(self, work: Callable[[LogFile], T], *, patient: bool = True) -> T:
        """Do some work.

        Args:
            work: it begins with its transaction, if it is not patient.
            patient: whether it waits for another process that writes.

        Raises:
            Busy: another process writes, and it does not wait; nothing was done.
            BrokerUnreachable: the file cannot be read or written now (locked, disk full, I/O error).
        """
        if self._log is None:
            raise ConfigurationError(f"the broker 'local:{self._path}' is closed")
        try:
            self._log.be_patient(patient)
            return work(self._log)
        except sqlite3.Error as error:
            if not patient and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                raise Busy from error
            raise BrokerUnreachable(f"the broker file {self._path} does not do its work: {error}") from error

    def close(self) -> None:
        """Close the file."""
        log, self._log = self._log, None
        if log is not None:
            log.close()


class _Thread:
    """One connection to the file that waits for the disk and for other processes on a thread of its own."""

    def __init__(self, path: Path, *, durable: bool, session: float, rebalance: float) -> None:
        self._opened = _Opened(path, durable=durable, session=session, rebalance=rebalance)
        self._aside = Aside("choreo-log")

    async def open(self) -> None:
        """Open the file; see `_Opened.open`."""
        await self._aside.in_thread(self._opened.open)

    async def call(self, work: Callable[[LogFile], T]) -> T:
        """Do some work on the thread; see `_Opened.call`."""
        return await self._aside.in_thread(partial(self._opened.call, work))

    async def promptly(self, work: Callable[[LogFile], T]) -> T:
        """Do some work that writes in one transaction, on the spot where neither disk nor others make it wait."""
        if self._aside.quick and self._aside.idle:
            try:
                return self._aside.on_the_spot(partial(self._opened.call, work, patient=False))
            except Busy:
                pass
        return await self.call(work)

    async def close(self) -> None:
        """Close the file and end the thread."""
        await self._aside.in_thread(self._opened.close)
        self._aside.close()
