"""`python -m benchmarks.scale`: does the capacity model hold? Against a simulation, and that against a real run.

The simulation goes up to 100,000 sagas per second and a billion stored ones. The real run is one coordinator on SQLite
that gets tens to hundreds of sagas per second: its transactions and its processor time are compared with what the
simulation makes of costs that were measured just before, on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from choreo.events.codec import Codec, to_record
from choreo.events.database import Database
from choreo.events.envelope import Envelope, Record
from choreo.events.registry import open_registry
from choreo.events.settings import load_settings
from choreo.events.transports import connect
from choreo.saga.coordinator import Coordinator
from choreo.saga.loading import Parts
from tests.scale import comparing
from tests.scale.capacity import Machines, needs
from tests.scale.comparing import Compared
from tests.scale.simulation import play

from . import footprint, shop
from .capacity import measured

RATES = (30, 100, 200)
ERROR = 0.5
"""How far the processor time of a real run may be from what was reckoned."""


async def paced(home: Path, rate: int, seconds: float) -> dict[str, float]:
    """Let a real coordinator track sagas that begin at a steady rate; give what it used each second."""
    settings = load_settings(broker="memory:paced", home=home)
    parts = Parts(services=shop.services(home), sagas=(shop.Order,))
    async with connect(settings.broker_url, settings) as transport:
        await transport.create_topics(parts.topics())
        registry = open_registry(settings, transport)
        codec = Codec(registry)
        await codec.prepare(shop.EVENTS)
        database = await Database.open(settings.store_url, by_index=True)
        coordinator = Coordinator(
            [shop.Order], transport=transport, database=database, settings=settings, options=shop._OPTIONS
        )
        await coordinator.start()
        try:
            while not await coordinator.caught_up():
                await asyncio.sleep(0.01)
            due = list(_due(codec, rate, seconds))
            cpu, batches, events = time.process_time(), coordinator.batches, coordinator.events
            began = time.monotonic()
            while due or time.monotonic() < began + seconds:
                now = time.monotonic() - began
                ready = 0
                while ready < len(due) and due[ready][0] <= now:
                    ready += 1
                if ready:
                    await transport.send([record for _, record in due[:ready]])
                    del due[:ready]
                await asyncio.sleep(0.004)
            took = time.monotonic() - began
            used = time.process_time() - cpu
            found = coordinator.events - events
            return {"cpu": used / took, "transactions": (coordinator.batches - batches) / took, "events": found / took}
        finally:
            await coordinator.stop()
            await database.close()
            await registry.close()


def _due(codec: Codec, rate: int, seconds: float) -> Iterator[tuple[float, Record]]:
    """Give the records of a steady stream of sagas, each event a quarter of a second after its cause."""
    now = time.time_ns() // 1_000
    said: list[tuple[float, Record]] = []
    for number in range(int(rate * seconds)):
        for index, event in enumerate(shop._story(number, 0)):
            at = number / rate + index * 0.25
            envelope = Envelope(f"{number}-{index}", event.spec().type, "bench", now + int(at * 1e6), event.key_text())
            if at < seconds:
                said.append((at, to_record(event, envelope, codec)))
    yield from sorted(said, key=lambda each: each[0])


def _real(seconds: float) -> tuple[list[list[str]], list[str]]:
    rounds = [{"store": "sqlite", **footprint.child(None, 600, batch)} for batch in footprint.BATCHES]
    fitted = footprint.fit(rounds)
    machines = replace(Machines(), flush_ms=0.0)  # what was measured has waited for the disk already
    idle = _paced(0, 3.0)["cpu"]
    rows, wrong = [], []
    for rate in RATES:
        found = _paced(rate, seconds)
        costs = replace(
            measured(),
            event=max(fitted["wall_event_us"], fitted["event_us"]),
            transaction=max(fitted["wall_transaction_us"], fitted["transaction_us"]),
            server_event=0.0,
            server_transaction=0.0,
            events=found["events"] / rate,
        )
        played = play(costs, machines, rate, 0, coordinators=1, seconds=30)
        # How many transactions there are depends on what else the machine does meanwhile; what they cost does not.
        cpu = idle + (found["events"] * fitted["event_us"] + found["transactions"] * fitted["transaction_us"]) / 1e6
        transactions = played.events / played.batch
        rows.append(
            [f"{rate}", f"{transactions:.0f}", f"{found['transactions']:.0f}", f"{cpu:.2f}", f"{found['cpu']:.2f}"]
        )
        if Compared("cpu", cpu, found["cpu"]).error > ERROR:
            wrong.append(f"{rate} sagas/s: {cpu:.2f} processors reckoned, {found['cpu']:.2f} used")
    return rows, wrong


def _paced(rate: int, seconds: float) -> dict[str, float]:
    return footprint.in_child(["-m", "benchmarks.scale", "--child", str(rate), str(seconds)])


def check(seconds: float = 8.0, *, real: bool = True) -> list[str]:
    """Compare everything, print it, and give what was off by more than it may be."""
    costs, machines = measured(), Machines()
    wrong: list[str] = []
    print("reckoned / played:")
    for sagas, stored in comparing.LOADS:
        plan = needs(costs, machines, sagas, stored)
        found = comparing.compared(costs, machines, sagas, stored)
        told = ", ".join(f"{each.what} {each.reckoned:,.2f}/{each.found:,.2f}" for each in found)
        parts = f"{plan.coordinators} coordinators, {plan.databases} databases"
        print(f"  {sagas:,} sagas/s, {stored:,.0f} stored, {parts}: {told}")
        wrong += [f"{sagas:,} sagas/s: {each}" for each in found if each.error > comparing.ERROR]
    small = replace(machines, cores=1)
    for there, stored, many in ((machines, 1e7, 2), (small, 1e7, 60), (machines, 1e7, 60), (machines, 1e9, 200)):
        name, most, played = comparing.overloaded(costs, there, stored, many)
        print(f"  full first: {name} at {most:,.0f} events/s; played: {played.fullest} at {played.events:,.0f}")
        if played.fullest != name or Compared(name, most, played.events).error > comparing.ERROR:
            wrong.append(f"full first should be {name} at {most:,.0f} events/s: {played}")
    if real:
        rows, off = _real(seconds)
        print("one real coordinator on SQLite, simulated / measured:")
        for rate, *each in rows:
            print(f"  {rate} sagas/s: transactions/s {each[0]}/{each[1]}, processors {each[2]}/{each[3]}")
        wrong += off
    return wrong


def main(arguments: Sequence[str] = ()) -> int:
    """Compare the model with the simulation, and that with a real run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, metavar="N", help="of each real run (8)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments or None)
    if given.child is not None:
        home = Path(tempfile.mkdtemp(prefix="choreo-bench-"))
        try:
            found: dict[str, Any] = asyncio.run(paced(home, int(given.child[0]), float(given.child[1])))
        finally:
            shutil.rmtree(home, ignore_errors=True)
        print(json.dumps(found))
        return 0
    wrong = check(given.seconds)
    for each in wrong:
        print(f"off: {each}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
