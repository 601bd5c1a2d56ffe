"""What can be seen beside the store, within bounds: does the broker answer, does a coordinator run, who does what."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ...events.errors import ChoreoError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...events.settings import Settings
    from ..report import Observed
    from ..surroundings import Surroundings

_CONNECT = 1.0
_ASK = 3.0
_SURVEY = 10.0


async def observe(settings: Settings, now: int, topics: Iterable[str] = ()) -> Observed:
    """Look at the broker for a few seconds at most; a broker that is away is told, never raised.

    Args:
        settings: where it is.
        now: the store's clock, microseconds.
        topics: those that a saga's definition names.
    """
    from ..looking import producers
    from ..report import Observed

    if settings.broker_url.startswith("memory:"):
        return Observed(now)  # it lives in another process, if at all
    around = await survey(settings, topics, patience=_ASK)
    if around.trouble is not None:
        return Observed(now, "down", around.trouble)
    coordinators = around.members(settings.group)
    return Observed(now, "ok", None, coordinators, producers(around.services), around, now)


async def survey(settings: Settings, topics: Iterable[str], *, patience: float | None = None) -> Surroundings:
    """Ask the broker for everything that may explain why a saga waits; one that is away is told, never raised.

    Args:
        settings: where it is.
        topics: those that the saga's definition names.
        patience: how long it may take, seconds; default: ten.
    """
    from ...events.transports import connect
    from ..surroundings import Surroundings, look_around

    patience = _SURVEY if patience is None else patience
    url = settings.broker_url
    if url.startswith("memory:"):
        return Surroundings("it lives in another process")
    trouble = await _unreachable(url)
    if trouble is not None:
        return Surroundings(trouble)
    try:
        async with asyncio.timeout(patience), connect(url, settings) as transport:
            return await look_around(transport, settings.group, topics)
    except TimeoutError:
        return Surroundings(f"it did not answer within {patience:.0f}s")
    except ChoreoError as failed:
        return Surroundings(failed.message)


async def _unreachable(url: str) -> str | None:
    """Try the address itself; give why it cannot be reached."""
    if url.startswith("local:"):
        return _missing(Path(url.removeprefix("local:")))
    reason: str | None = "no address"
    for host, port in _addresses(url):
        reason = await unreachable_host(host, port)
        if reason is None:
            return None
    return reason


async def unreachable_host(host: str, port: int) -> str | None:
    """Try an address; give why it cannot be reached."""
    try:
        async with asyncio.timeout(_CONNECT):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
        return None
    except TimeoutError:
        return f"{host}:{port} did not answer within {_CONNECT:.0f}s"
    except OSError as error:
        return f"{host}:{port}: {_reason(error)}"


def _reason(error: OSError) -> str:
    # A failed look-up has numbers of its own, below zero; asyncio puts the address into the other ones' text.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


def _missing(path: Path) -> str | None:
    return None if path.exists() else f"there is no broker at {path}"


def _addresses(url: str) -> list[tuple[str, int]]:
    found = []
    for each in url.partition("://")[2].split(","):
        try:
            parts = urlsplit(f"//{each}")
            found.append((parts.hostname or "", parts.port or 9092))
        except ValueError:
            continue  # the transport says what is wrong with it
    return found
