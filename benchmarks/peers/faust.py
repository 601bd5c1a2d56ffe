"""Faust: `python -m benchmarks.peers.faust`, an agent that reads a topic and sends to another, at least once.

Faust's sends are in the background: all results are acknowledged when its producer is flushed, which the watch waits
for. It starts with the first event: what Faust does between the assignment and that one is left out.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import faust

from benchmarks.stopwatch import Stopwatch

from .pricing import Job, Priced, Received, price, read_job, spell


async def _measure(job: Job) -> dict[str, object]:
    watch, finished = Stopwatch(), asyncio.Event()
    app = faust.App(
        job.group,
        broker=f"kafka://{job.hosts}",
        datadir=job.home,
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
        producer_max_batch_size=512 * 1024,
    )
    raw: dict[str, Any] = {
        "key_type": bytes,
        "value_type": bytes,
        "key_serializer": "raw",
        "value_serializer": "raw",
    }
    source, target = app.topic(job.source, **raw), app.topic(job.target, **raw)
    handled = reached = 0

    @app.agent(source)
    async def reprice(stream: Any) -> None:
        nonlocal handled, reached
        async for event in stream.events():
            watch.start()
            received = Received.model_validate(job.decode(event.value))
            priced: Priced = price(received)
            known = {name: value.decode() for name, value in event.headers.items()}
            headers = {name: value.encode() for name, value in spell(known).items()}
            await target.send(key=event.key, value=job.encode(priced), headers=headers)
            handled += 1
            if not reached and handled >= job.count:
                await app.producer.flush()
                watch.lap()
                reached = handled
                finished.set()

    await app.start()
    await finished.wait()
    await app.stop()
    return watch.measured(reached, handled=handled).to_json()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(read_job()))))
