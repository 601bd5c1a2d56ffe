"""Health check of a container: is its process ready? Asks `/readyz` where `CHOREO_HEALTH` says.

It is for `saga run`, `saga serve` and `saga relay`. `python healthy.py` ends with 0 or 1, and says what keeps it from
being ready. `python healthy.py GROUP` is for a process that has no `/readyz`: has its consumer group a live member?
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from http.client import HTTPConnection


def main() -> int:
    """Ask, and judge."""
    host, _, port = os.environ["CHOREO_HEALTH"].rpartition(":")
    connection = HTTPConnection(host or "127.0.0.1", int(port), timeout=10)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        parts = json.load(answer)["parts"]
    except OSError as error:
        print(error)
        return 1
    for part in parts:
        print(part["kind"], part["name"], "is ready" if part["ready"] else "; ".join(part["why"]))
    return 0 if answer.status == 200 else 1


async def member(group: str) -> int:
    """Ask the broker who is in a group, and judge."""
    from choreo.events.errors import ChoreoError
    from choreo.events.settings import load_settings
    from choreo.events.transports import connect

    settings = load_settings()
    try:
        async with connect(settings.broker_url, settings) as transport:
            found = await transport.group(group)
    except ChoreoError as error:
        print(error)
        return 1
    print(f"{group}: {len(found.members)} members")
    return 0 if found.members else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(member(sys.argv[1])) if len(sys.argv) > 1 else main())
