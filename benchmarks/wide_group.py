"""What `benchmarks.wide` measures with: coordinators as processes, orders in a topic, and the time of processors."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from choreo.events.codec import Codec, to_record
from choreo.events.envelope import Envelope, Record
from choreo.events.partitioner import partition_for
from choreo.events.registry import open_registry
from choreo.events.settings import Settings, load_settings
from choreo.events.transport import Transport
from choreo.saga.loading import Parts

from .wide_orders import EVENTS, TOPIC, Order, said

ROOT = Path(__file__).parent.parent
SECONDS = 150
"""How long one measurement may take."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Member:
    """A coordinator in a process of its own.

    Args:
        settings: the broker, the store and the session.
        folder: where it runs.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._folder, self._said = folder, folder / "coordinators.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHOREO_", "OTEL_"))}
        self._environment = {
            **kept,
            "PYTHONPATH": str(ROOT),
            "CHOREO_HOME": str(folder),
            "CHOREO_BROKER": settings.broker_url,
            "CHOREO_STORE": settings.store_url,
            "CHOREO_TOPIC_PREFIX": settings.topic_prefix,
            "CHOREO_SESSION": str(settings.session),
            "OTEL_SDK_DISABLED": "true",
        }

    async def start(self) -> None:
        """Start the process; it joins by itself."""
        with self._said.open("ab") as said:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "benchmarks.wide_coordinator",
                env=self._environment,
                cwd=self._folder,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=said,
            )

    async def look(self) -> Mapping[str, Any]:
        """Ask how it stands."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        line = await self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a coordinator has ended:\n{self._said.read_text()[-4000:]}")
        found: Mapping[str, Any] = json.loads(line)
        return found

    async def leave(self) -> None:
        """Let it finish and leave its group."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.process.wait()

    async def kill(self) -> None:
        """End it with SIGKILL."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


async def until(condition: Callable[[Sequence[Mapping[str, Any]]], bool], members: Sequence[Member]) -> None:
    """Wait until what the coordinators say is as it should be."""
    async with asyncio.timeout(SECONDS):
        while not condition([await member.look() for member in members]):
            await asyncio.sleep(0.02)


def shared(partitions: int) -> Callable[[Sequence[Mapping[str, Any]]], bool]:
    """Make a condition: each coordinator has a share of the partitions, and each partition a coordinator."""
    return lambda told: (
        all(each["partitions"] for each in told) and sum(each["partitions"] for each in told) == partitions
    )


def given(bootstrap: str, store: str, prefix: str, session: float) -> Settings:
    """Make the settings of one measurement."""
    return load_settings(broker=f"kafka://{bootstrap}", store=store, topic_prefix=prefix, session=session)


async def make_topics(transport: Transport, partitions: int) -> None:
    """Make every topic of the saga."""
    specs = Parts(sagas=(Order,)).topics(partitions=partitions)
    await transport.create_topics([spec if spec.compacted else replace(spec, partitions=partitions) for spec in specs])


class Backlog:
    """Orders in their topic that nobody can read before `open` is called: written in a transaction of Kafka's.

    Args:
        settings: the broker, and the prefix of the topic.
        partitions: of the topic.
    """

    def __init__(self, settings: Settings, partitions: int) -> None:
        self._settings = settings
        self._partitions = partitions
        self.events = 0

    async def fill(self, transport: Transport, keys: Sequence[str]) -> None:
        """Write what the services said of these orders."""
        registry = open_registry(self._settings, transport)
        codec = Codec(registry)
        await codec.prepare(EVENTS)
        prefix = self._settings.topic_prefix
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._settings.broker_url.removeprefix("kafka://"),
            transactional_id=f"{prefix}backlog",
            transaction_timeout_ms=SECONDS * 1_000,
        )
        await self._producer.start()
        await self._producer.begin_transaction()
        for event, cause, id_ in said(keys):
            now = time.time_ns() // 1_000
            spec = event.spec()
            envelope = Envelope(id_, spec.type, spec.topic, now, event.key_text(), causation_id=cause)
            await self._write(to_record(event, envelope, codec))
            self.events += 1
        await self._producer.flush()
        await registry.close()

    async def _write(self, record: Record) -> None:
        assert record.key is not None
        place = partition_for(record.key, self._partitions)
        await self._producer.send(
            self._settings.topic_prefix + TOPIC,
            record.value,
            key=record.key,
            partition=place,
            headers=list(record.headers),
        )

    async def open(self) -> None:
        """Let everybody read it, at once."""
        await self._producer.commit_transaction()

    async def close(self) -> None:
        """End the producer."""
        await self._producer.stop()


def processor_time(pid: int) -> float:
    """Give the seconds of processor time of a process and its children, those that have ended included (Linux)."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        own, parent = int(stat.parent.name) == pid, int(words[1]) == pid
        if own or parent:
            total += sum(map(int, words[11:15] if own else words[11:13]))
    return total / _TICKS
