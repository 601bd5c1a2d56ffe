"""Dead letters as people handle them: read back, counted, sent again, or settled, with a record of who did it and why.

A letter stays on its topic as it came. What became of it stands on the compacted topic `choreo.dead-letters`, under its
id, so that everybody sees the same and nothing has to be deleted from a log.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from ..events.clock import from_rfc3339, to_rfc3339
from ..events.envelope import JSON, Delivery, Record, read_envelope
from ..events.errors import ConfigurationError, EventError, Refused
from ..events.ids import derived_id
from ..events.transport import TopicSpec, Transport
from ..tracing.headers import REPLAYED_TRACE
from .dead_letters import PREFIX, REPLAY

SUFFIX = ".dlq"
SETTLED_TOPIC = "choreo.dead-letters"
REPLAYS = "replay-count"
"""Header: how often it was sent again from the dead letters, this time included."""

ERASED = "erased"
"""Header `dlq-value` of a letter whose words were erased."""

State = Literal["open", "retried", "skipped", "discarded"]

# Of a run that is over, or of whoever copied the record: carried along they would mislead (kafbat/kafka-ui#1810).
_STALE = frozenset(("traceparent", "tracestate", "baggage"))
_STALE_PREFIXES = (PREFIX, "kafka_dlt-", "kafka_original-", "__connect.errors.", "mm2-", "x-death")


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter.

    Args:
        id: `d-` and eight hexadecimal digits of where it lies, or first lay.
        delivery: the record on the dead-letter topic.
        at: when it was given up, microseconds.
        target: the topic that it was read from.
        service, handler: who gave up; the handler is empty where none could be told.
        error, message: class of the error, and the first line of its text.
        attempts: how often it was tried.
        event_id, type, key, saga, step: of the event, as far as its headers say.
        replays: how often it was sent again before.
        complete: whether it still has its value.
        erased: what it said was erased, for ever.
    """

    id: str
    delivery: Delivery
    at: int
    target: str
    service: str
    handler: str
    error: str
    message: str
    attempts: int
    event_id: str
    type: str
    key: str
    saga: str | None
    step: str | None
    replays: int
    complete: bool
    erased: bool = False


class Settled(BaseModel):
    """What became of a letter.

    Args:
        id: the letter's.
        state: retried, skipped or discarded.
        by, reason: who and why.
        at: RFC 3339.
        replay_id: of the copy that was sent.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    state: Literal["retried", "skipped", "discarded"]
    by: str
    reason: str = ""
    at: str
    replay_id: str | None = None


class Filed(NamedTuple):
    """A letter with what became of it, None while it is open."""

    letter: Letter
    settled: Settled | None

    @property
    def state(self) -> State:
        """Its state in one word."""
        return "open" if self.settled is None else self.settled.state


def read_letter(delivery: Delivery) -> Letter:
    """Read a record of a dead-letter topic; what it does not say stays empty."""
    headers = {name: _text(value) for name, value in delivery.headers}
    told = {name.removeprefix(PREFIX): value for name, value in headers.items() if name.startswith(PREFIX)}
    try:
        envelope = read_envelope(delivery)
        event_id = envelope.id if "ce_id" in headers else _original_id(told)
        type_, saga = envelope.type, envelope.saga_id
        run = envelope.saga_run or 1
        name = saga if saga is None or run == 1 else f"{saga}~{run}"
        step = envelope.saga_step
    except EventError:
        event_id, type_, name, step = _original_id(told), "", None, None
    return Letter(
        id=told.get("id") or letter_id(delivery),
        delivery=delivery,
        at=_time(told.get("time", ""), delivery.timestamp * 1_000),
        target=told.get("topic") or delivery.topic.removesuffix(SUFFIX),
        service=told.get("service", ""),
        handler=told.get("handler", ""),
        error=told.get("error", ""),
        message=told.get("message", ""),
        attempts=_number(told.get("attempts", "")),
        event_id=event_id,
        type=type_,
        key=_text(delivery.key or b""),
        saga=name,
        step=step,
        replays=_number(headers.get(REPLAYS, "")),
        complete=told.get("value") not in ("omitted", ERASED),
        erased=told.get("value") == ERASED,
    )


def letter_id(delivery: Delivery) -> str:
    """Name a letter by where it lies."""
    place = f"{delivery.topic}/{delivery.partition}/{delivery.offset}"
    return f"d-{blake2b(place.encode(), digest_size=4).hexdigest()}"


def redrive(letter: Letter, replay_id: str, value: bytes | None = None) -> Record:
    """Build the record that gives a letter to its handler once more.

    It goes to the topic and key that it had, under the same event id, so that everybody who has met the event drops it,
    and with a new delivery id, which lets the handler that gave up run again. Headers of the failed run are left out;
    its trace is named for a link.

    Args:
        letter: which.
        replay_id: the new delivery's.
        value: a mended value; None keeps the letter's.

    Raises:
        Refused: the letter has lost its value.
    """
    if letter.erased and value is None:
        raise Refused(f"{letter.id} was erased: nothing is left that could be sent")
    if not letter.complete and value is None:
        place = {name: _text(text) for name, text in letter.delivery.headers}
        where = "/".join(place.get(PREFIX + name, "?") for name in ("topic", "partition", "offset"))
        raise Refused(f"{letter.id} was too large to keep its value; the event itself still lies at {where}")
    headers = [(name, text) for name, text in letter.delivery.headers if not _stale(name)]
    if all(name != "ce_id" for name, _ in headers):
        # A foreign record has no id of its own: the one that its place gave it is spelled out, for it moves.
        headers.append(("ce_id", letter.event_id.encode()))
    trace = next((text for name, text in letter.delivery.headers if name == "traceparent"), None)
    headers += [(REPLAY, replay_id.encode()), (REPLAYS, b"%d" % (letter.replays + 1))]
    if trace is not None:
        headers.append((REPLAYED_TRACE, trace))
    return Record(letter.target, letter.delivery.key, letter.delivery.value if value is None else value, tuple(headers))


async def read_letters(transport: Transport, topics: Iterable[str] = ()) -> list[Filed]:
    """Read dead letters with what became of them, the newest first.

    Args:
        transport: an open broker.
        topics: dead-letter topics, or the topics that theirs are; none: all there are.

    Raises:
        ConfigurationError: there is no such topic.
        TransportError: the broker does not answer.
    """
    there = await transport.topics()
    wanted = [name if name.endswith(SUFFIX) else name + SUFFIX for name in topics]
    if unknown := [name for name in wanted if name not in there]:
        known = ", ".join(sorted(name for name in there if _holds_letters(name))) or "none"
        raise ConfigurationError(f"there is no dead-letter topic {unknown[0]!r}; there are: {known}")
    settled = await _read_settled(transport, SETTLED_TOPIC in there)
    found = []
    for name in sorted(set(wanted) or {name for name in there if _holds_letters(name)}):
        # Of one that was moved within its topic, and is there twice for a moment, the later record is the letter.
        letters = {letter.id: letter for letter in map(read_letter, await transport.snapshot(name))}
        found += [Filed(letter, settled.get(letter.id)) for letter in letters.values()]
    return sorted(found, key=lambda each: (-each.letter.at, each.letter.id))


async def settle(transport: Transport, records: Sequence[Record], settled: Sequence[Settled]) -> None:
    """Send what is sent again, and then write down what became of the letters; the topic is made if it is missing.

    Between the two a death leaves letters open that were sent: sent again, they are dropped by their event ids.

    Raises:
        TransportError: the broker did not take them.
    """
    await transport.create_topics([TopicSpec(SETTLED_TOPIC, partitions=1, compacted=True)])
    await transport.send(records)
    await transport.send(
        [
            Record(SETTLED_TOPIC, each.id.encode(), each.model_dump_json().encode(), (("content-type", JSON.encode()),))
            for each in settled
        ]
    )


def settlement(letter: Letter, state: Literal["retried", "skipped", "discarded"], **told: Any) -> Settled:
    """Write down what became of a letter; `at` in microseconds, and `by`, `reason`, `replay_id`."""
    return Settled(id=letter.id, state=state, at=to_rfc3339(told.pop("at")), **told)


async def _read_settled(transport: Transport, there: bool) -> dict[str, Settled]:
    found: dict[str, Settled] = {}
    for delivery in await transport.snapshot(SETTLED_TOPIC) if there else ():
        try:
            each = Settled.model_validate(json.loads(delivery.value or b"null"))
        except (ValueError, ValidationError):
            continue  # a stranger's record says nothing about a letter
        found[each.id] = each
    return found


def _holds_letters(topic: str) -> bool:
    return topic.endswith(SUFFIX)


def _stale(name: str) -> bool:
    return name in _STALE or name in (REPLAY, REPLAYS, REPLAYED_TRACE) or name.startswith(_STALE_PREFIXES)


def _original_id(told: Mapping[str, str]) -> str:
    """Give the id that the place of a record without one gave it."""
    return derived_id("record", *(told.get(name, "") for name in ("topic", "partition", "offset")))


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _time(text: str, otherwise: int) -> int:
    try:
        return from_rfc3339(text)
    except ValueError:
        return otherwise
