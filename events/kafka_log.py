"""What Kafka's client may write into the log: what its user can act on, and each of it seldom."""

from __future__ import annotations

import logging
import time

_NAMES = (
    "aiokafka",  # its connections
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.producer.sender",
)
_SECONDS = 60.0
# Every first use of a group meets these, and the client goes on by itself.
_EXPECTED = ("Group Coordinator Request failed", 'Unable connect to "%s', "Unable to update metadata")


class ClientLog(logging.Filter):
    """Passes each kind of message once a minute, and remembers why a connection failed.

    The client reports an unreachable broker's reason only here; ten times a second while it lasts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[str, float] = {}
        self.reasons: dict[str, str] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide on one message."""
        text = str(record.msg)
        if text.startswith("Unable connect") and isinstance(record.args, tuple) and record.args:
            place = ":".join(str(part) for part in record.args[:-1])
            self.reasons[place] = _reason(record.args[-1])
        if record.levelno < logging.WARNING:
            return True
        if text.startswith(_EXPECTED):
            return False
        now = time.monotonic()
        if now - self._passed.get(text, -_SECONDS) < _SECONDS:
            return False
        self._passed[text] = now
        return True


def _reason(error: object) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "the connection is refused"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__


def tame() -> ClientLog:
    """Put the one filter on the client's loggers."""
    for name in _NAMES:
        logging.getLogger(name).addFilter(CLIENT_LOG)
    return CLIENT_LOG


CLIENT_LOG = ClientLog()
