"""Health check of a container: has its consumer group a live member? That is the only sign of life that cannot lie.

`python healthy.py GROUP` ends with 0 or 1.
"""

from __future__ import annotations

import asyncio
import sys

from choreo.events.errors import ChoreoError
from choreo.events.settings import load_settings
from choreo.events.transports import connect


async def main(group: str) -> int:
    """Ask the broker who is in the group."""
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
    sys.exit(asyncio.run(main(sys.argv[1])))
