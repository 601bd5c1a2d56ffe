"""When a measurement begins and ends, and what it took; peers are measured with it too, so it needs no package.

The servers that a measurement uses (Kafka, PostgreSQL, a peer's own) are named by their process ids in
CHOREO_BENCH_SERVERS: their CPU time is told apart.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .processes import cpu_seconds, peak_memory


@dataclass(frozen=True, slots=True)
class Measured:
    """What one measurement gave.

    Args:
        count: events or sagas.
        seconds: from begin to end.
        cpu: seconds of this process and its helpers, all their threads.
        servers: CPU seconds of the servers.
        memory: the peak of this process and its helpers, MB.
        more: counts that were verified, and other figures.
    """

    count: int
    seconds: float
    cpu: float
    servers: float
    memory: float
    more: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values."""
        each = {"cpu_us_each": self.cpu / self.count * 1e6, "servers_us_each": self.servers / self.count * 1e6}
        return {**asdict(self), "per_second": self.count / self.seconds, **each}


def warm(count: int) -> int:
    """Say how many sagas go before those that count.

    Schemas are learned, statements are compiled, and servers in Java translate what they run for ten seconds.
    """
    return min(500, count)


class Stopwatch:
    """Measures wall and processor time; the first `start` and the last `lap` count.

    Args:
        helpers: processes of ours beside this one.
        servers: processes of servers beside those of CHOREO_BENCH_SERVERS.
    """

    def __init__(self, helpers: Sequence[int] = (), servers: Sequence[int] = ()) -> None:
        named = os.environ.get("CHOREO_BENCH_SERVERS", "")
        self._helpers = helpers
        self._servers = [*servers, *(int(pid) for pid in named.split(",") if pid)]
        self._began: tuple[float, float, float] | None = None
        self._ended = (0.0, 0.0, 0.0)

    def start(self) -> None:
        """Begin, unless it runs already."""
        if self._began is None:
            # As `saga run` does (choreo.events.garbage); the loop by hand and the peers have it too.
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 20, 50)
            self._began = self._now()

    def lap(self) -> None:
        """Note that it ends now, or later."""
        self._ended = self._now()

    def measured(self, count: int, **more: Any) -> Measured:
        """Give the figures."""
        assert self._began is not None
        seconds, cpu, servers = (end - begin for end, begin in zip(self._ended, self._began, strict=True))
        return Measured(count, seconds, cpu, servers, peak_memory(self._helpers), more)

    def _now(self) -> tuple[float, float, float]:
        own = time.process_time() + cpu_seconds(self._helpers)
        return time.perf_counter(), own, cpu_seconds(self._servers)
