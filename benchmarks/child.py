"""One measurement in a process of its own: nothing of the one before it is left in memory or on disk.

`python -m benchmarks.child CASE BROKER HOME COUNT` prints what it measured as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import structlog

from . import baskets, engines, handlers, publishing, shop
from .stopwatch import Measured

CASES: dict[str, Callable[[str, Path, int], Awaitable[Measured]]] = {
    "by-hand": partial(handlers.by_hand, headers=False),
    "by-hand-headers": partial(handlers.by_hand, headers=True),
    "stateless": partial(handlers.as_service, store=None),
    "suspending": partial(handlers.as_service, store=None, suspends=True),
    "stored": partial(handlers.as_service, store="sqlite"),
    "stored-postgres": partial(handlers.as_service, store="postgresql"),
    "faststream": partial(handlers.as_peer, program="faststream", arguments=("message",)),
    "faststream-batch": partial(handlers.as_peer, program="faststream", arguments=("batch",)),
    "faststream-keyed": partial(handlers.as_peer, program="faststream", arguments=("keyed",)),
    "faust": partial(handlers.as_peer, program="faust"),
    "publish-raw": publishing.raw,
    "publish": publishing.publisher,
    "insert": publishing.insert,
    "insert-outbox": publishing.insert_with_outbox,
    "track": shop.track,
    "track-by-hand": shop.track_by_hand,
    "catch-up": shop.catch_up,
    "track-grown": shop.track_grown,
    "track-wide": baskets.track,
    "whole": shop.whole,
    "whole-1": partial(shop.whole, coordinators=1),
    "whole-2": partial(shop.whole, coordinators=2),
    "paced": shop.paced,
    "paced-1": partial(shop.paced, coordinators=1),
    "paced-2": partial(shop.paced, coordinators=2),
    "coordinate": shop.coordinate,
    "dbos-sqlite": partial(engines.dbos, store="sqlite"),
    "dbos-postgres": partial(engines.dbos, store="postgresql"),
    "restate": engines.restate,
    "paced-dbos-sqlite": partial(engines.dbos, store="sqlite", rate=shop.RATE),
    "paced-dbos-postgres": partial(engines.dbos, store="postgresql", rate=shop.RATE),
    "paced-restate": partial(engines.restate, rate=shop.RATE),
}


async def _measure(case: str, broker: str, home: Path, count: int) -> Measured:
    return await CASES[case](broker, home, count)


def main() -> None:
    """Run the case that the arguments name."""
    case, broker, home, count = sys.argv[1:]
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    measured = asyncio.run(_measure(case, broker, Path(home), int(count)))
    print(json.dumps(measured.to_json()))


if __name__ == "__main__":
    main()
