"""FastStream: `python -m benchmarks.peers.faststream message|batch|keyed`, a subscriber that publishes.

Its handler is called for what comes next when the results of what came before are acknowledged: the call after the last
one stops the watch. Batches are committed one by one; `batch` sends what comes of each as one, `keyed` each result by
its key. Single messages are committed in the background, which is what it does by default and loses what is in work
when it dies: a commit for each would take several times as long.
"""

from __future__ import annotations

import asyncio
import json
import sys

from aiokafka.abc import ConsumerRebalanceListener
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage, KafkaPublishMessage, KafkaResponse, annotations

from benchmarks.stopwatch import Stopwatch

from .pricing import Job, Received, price, read_job, spell

_AT_ONCE = 1_000
_BYTES = 1_000_000
"""Of one batch: FastStream sends what a handler of batches returns as one, and Kafka takes no more than a mebibyte."""


class _Start(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch

    async def on_partitions_revoked(self, revoked: object) -> None:
        pass

    async def on_partitions_assigned(self, assigned: object) -> None:
        self._watch.start()


async def _measure(job: Job, mode: str) -> dict[str, object]:
    batch = mode != "message"
    watch, finished = Stopwatch(), asyncio.Event()
    broker = KafkaBroker(job.hosts, acks="all", enable_idempotence=True, max_batch_size=_BYTES, logger=None)
    handled = reached = 0

    def count(messages: int) -> None:
        nonlocal handled, reached
        if not reached and handled >= job.count:
            watch.lap()
            reached = handled
            finished.set()
        handled += messages

    options = {
        "group_id": job.group,
        "auto_offset_reset": "earliest",
        "isolation_level": "read_committed",
        "ack_policy": AckPolicy.ACK if batch else AckPolicy.ACK_FIRST,
        "listener": _Start(watch),
    }
    if batch:

        async def decode_all(message: KafkaMessage) -> list[object]:
            return [job.decode(body) for body in message.body]

        @broker.subscriber(job.source, batch=True, max_records=_AT_ONCE, decoder=decode_all, **options)
        async def reprice_all(received: list[Received], message: annotations.KafkaMessage) -> None:
            count(len(received))
            headers = [spell(known) for known in message.batch_headers]
            if mode == "keyed":
                sent = [
                    await broker.publish(
                        job.encode(price(each)), job.target, key=each.order_id.encode(), headers=own, no_confirm=True
                    )
                    for each, own in zip(received, headers, strict=True)
                ]
                await asyncio.gather(*sent)
                return
            await broker.publish_batch(
                *(KafkaPublishMessage(job.encode(price(each)), key=each.order_id.encode()) for each in received),
                topic=job.target,
                headers=headers[-1],  # it writes the same ones with each message of a batch
            )
    else:

        async def decode(message: KafkaMessage) -> object:
            return job.decode(message.body)

        @broker.subscriber(job.source, decoder=decode, **options)
        @broker.publisher(job.target)
        async def reprice(received: Received, message: annotations.KafkaMessage) -> KafkaResponse:
            count(1)
            key = message.raw_message.key
            return KafkaResponse(job.encode(price(received)), key=key, headers=spell(message.headers))

    async with broker:
        await broker.start()
        await finished.wait()
        await broker.stop()
    return watch.measured(reached, handled=handled).to_json()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(read_job(), sys.argv[1]))))
