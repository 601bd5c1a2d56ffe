"""Health check of a container: is its process ready? Asks `/readyz` of `saga run`, where `CHOREO_HEALTH` says.

`python healthy.py` ends with 0 or 1, and says what keeps it from being ready.
"""

from __future__ import annotations

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


if __name__ == "__main__":
    sys.exit(main())
