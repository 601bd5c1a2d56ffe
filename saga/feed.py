"""What the coordinator reads: records of its partitions, in batches, in the order in which they may be applied."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from ..events.envelope import Delivery, TopicPartition
from ..events.errors import PositionLost, TransportError
from ..events.leisure import leisure
from ..events.transport import Consumer, Transport
from .options import Options
from .positions import Positions

log = structlog.get_logger("choreo.coordinator")

PATIENCE = 5.0
"""Seconds that all partitions wait for one that is behind and brings nothing: its broker may be away."""

_LONGEST_PAUSE = 10.0
_FEW = 32
"""Records; so many are worth a transaction of their own, and wait for nobody."""


class Feed:
    """Reads one consumer group's share of some topics.

    Args:
        transport: an open broker.
        group: the consumer group.
        topics: all must exist.
        positions: how far each partition was read; it listens to the group's rebalances.
        options: how many records make a batch, and how long it waits for them.
        client: the name of the member.
    """

    def __init__(
        self,
        transport: Transport,
        group: str,
        topics: Sequence[str],
        positions: Positions,
        options: Options,
        *,
        client: str,
    ) -> None:
        self._transport = transport
        self._group = group
        self._topics = topics
        self._positions = positions
        self._most = options.batch
        self._poll = options.poll
        self._linger = options.linger
        self._client = client
        self._paused: set[TopicPartition] = set()
        self._polled: list[Delivery] = []
        self._round = -1
        self._full = False
        self._moved_at = 0.0
        self._stopping = False

    async def open(self) -> None:
        """Join the group.

        Raises:
            TopicMissing, BrokerUnreachable
        """
        self._consumer: Consumer = await self._transport.subscribe(
            self._group, self._topics, listener=self._positions, client=self._client
        )
        self._positions.bind(self._consumer)
        self._paused.clear()
        self._moved_at = asyncio.get_running_loop().time()

    async def close(self) -> None:
        """Leave the group; commit before."""
        self._stopping = True
        await self._consumer.close()

    async def fill(self) -> None:
        """Read what there is, if there is room for it; `take` gives what may be applied.

        A connection that is gone for good is replaced, which is waited for.
        """
        positions, merge = self._positions, self._positions.merge
        self._polled = []
        if self._full:
            await self._look_ahead()
        wanted = merge.full()
        if back := sorted(self._paused - wanted):
            self._consumer.resume(back)
        if more := sorted(wanted - self._paused):
            self._consumer.pause(more)
        self._paused = wanted
        try:
            self._polled = await self._consumer.poll(most=self._most, timeout=self._poll)
            self._round = positions.round
            if self._polled and self._linger:
                await self._gather()
        except PositionLost:
            positions.doubt()
        except TransportError as error:
            if not error.retryable:
                raise
            await self._reopen(error)

    def take(self) -> list[Delivery]:
        """Give the next batch; call it while no rebalance can come between, and no other call of `fill`."""
        positions, merge = self._positions, self._positions.merge
        polled, self._polled = self._polled, []
        if self._round != positions.round:
            # A rebalance came between: every partition that is ours is read again from where it was stored (row 31).
            self._paused.clear()
            polled = []
        self._full = len(polled) >= max(1, self._most // 2)
        merge.add(polled)
        positions.reach()
        batch = merge.take(self._most)
        now = asyncio.get_running_loop().time()
        if batch or not merge.behind:
            self._moved_at = now
        elif now - self._moved_at > PATIENCE:
            for place in merge.give_up():
                log.warning(
                    "a partition brings nothing, the others are read on without it; what it brings comes out of order",
                    topic=place.topic,
                    partition=place.partition,
                )
        return batch

    async def _gather(self) -> None:
        """Let the services of this process go first, and take what they say meanwhile into the same batch."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._linger
        while len(self._polled) < min(_FEW, self._most) and (left := end - loop.time()) > 0:
            await leisure(left)
            more = await self._consumer.poll(most=self._most - len(self._polled), timeout=0.0)
            if self._round != self._positions.round:  # what was read before a rebalance is read again
                self._polled, self._round = [], self._positions.round
            elif not more:
                return
            self._polled += more

    async def _look_ahead(self) -> None:
        """Where much is left to read, note where the partitions end."""
        positions = self._positions
        if not positions.merge.behind and positions.processed:
            round_ = positions.round
            ends = await self._consumer.stable_offsets(sorted(positions.processed))
            if positions.round == round_:
                positions.aim(ends)

    async def _reopen(self, error: TransportError) -> None:
        """Join the group anew after the connection broke for good."""
        log.warning("the broker does not answer, reading waits", error=error.message)
        pause = 0.5
        await self._positions.on_revoked(self._consumer.assignment())
        await self._consumer.close()
        while not self._stopping:
            await asyncio.sleep(pause)
            try:
                await self.open()
                return
            except TransportError as again:
                if not again.retryable:
                    raise
                pause = min(2 * pause, _LONGEST_PAUSE)
