"""`saga events tail`: the events on the broker, as they come."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from ...events.errors import ConfigurationError
from .shell import Shell

if TYPE_CHECKING:
    from ...events.envelope import Delivery, Envelope, TopicPartition
    from ...events.transport import Consumer, Transport
    from ..payloads import Payloads

EVENT = "saga.event/v1"

_BATCH = 200
_POLL = 0.5
_OURS = "choreo."
_WIDTHS = (12, 24, 20, 28, 24)

_Flag = Annotated[bool, Parameter(negative="", show_default=False)]
_Text = Annotated[str, Parameter(show_default=False)]
_Several = Annotated[list[str] | None, Parameter(negative="")]

events = App(name="events", help="Follow the events on the broker as they come.", help_format="plaintext")


@events.command
async def tail(
    *topics: str,
    type: _Several = None,  # noqa: A002 - the option's name
    key: _Several = None,
    saga: _Text = "",
    since: _Text = "",
    from_beginning: _Flag = False,
    limit: Annotated[int | None, Parameter(show_default=False)] = None,
    follow: Annotated[bool, Parameter(negative="--no-follow")] = True,
    payloads: _Flag = False,
    reveal: _Flag = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Follow events: when, which type and key, where they stand, of which saga and how large; what they say when asked.

    It reads as a consumer group of its own that never commits, so no service notices. Ctrl-C ends it.

    Args:
        topics: which; patterns as in 'pay*' are read, too. Default: all, without dead letters and choreo's own.
        type: only events of this type, or of several.
        key: only events with this key, or one of several.
        saga: only what belongs to this saga, by type/key or by its key.
        since: begin with what came at or after this: 10m (ago), a date, or RFC 3339.
        from_beginning: begin with what came first; default: with what comes from now on.
        limit: end after so many events.
        follow: go on when all that was there has been shown.
        payloads: also what they say; secrets are masked.
        reveal: with --payloads, show secrets and decrypt what is encrypted.
    """
    from ...events.clock import system_clock
    from ..payloads import Payloads
    from .letterbox import broker
    from .times import moment

    if limit is not None and limit < 1:
        raise ConfigurationError(f"--limit {limit}: write 1 or more")
    if since and from_beginning:
        raise ConfigurationError("--since and --from-beginning: choose one")
    begin = moment(since, system_clock(), "--since") // 1_000 if since else 0 if from_beginning else None
    wanted = _wanted(type or (), key or (), saga)
    async with broker(shell) as transport, Payloads(shell.settings, transport, reveal=reveal) as reader:
        names = _chosen(topics, sorted(await transport.topics()))
        reading = _Reading(begin, await transport.end_offsets(names), until_end=not follow)
        shell.hint(f"{len(names)} topics on {shell.settings.broker_url}: {', '.join(names)}" if names else "no topics")
        shown = _Shown(shell, reader if payloads else None)
        try:
            if names:
                await _read(transport, names, reading, wanted, shown, limit)
        finally:
            shown.close()


async def _read(
    transport: Transport,
    names: Sequence[str],
    reading: _Reading,
    wanted: Callable[[Delivery, Envelope | None], bool],
    shown: _Shown,
    limit: int | None,
) -> None:
    client = "saga-events-tail"
    group = f"{_OURS}tail.{uuid.uuid4().hex[:12]}"
    reading.consumer = await transport.subscribe(group, names, listener=reading, client=client)
    try:
        while not reading.over:
            for delivery in await reading.consumer.poll(most=_BATCH, timeout=_POLL):
                envelope = _envelope(delivery)
                if reading.take(delivery) and wanted(delivery, envelope):
                    await shown.show(delivery, envelope)
                    if limit is not None and shown.count >= limit:
                        return
    finally:
        await reading.consumer.close()


class _Reading:
    """Where reading begins, and how far it has come; a rebalance loses nothing.

    Args:
        begin: milliseconds since the epoch; 0 for the beginning, None for what comes from now on.
        ends: where each partition ends now.
        until_end: not further than that.
    """

    def __init__(self, begin: int | None, ends: Mapping[TopicPartition, int], *, until_end: bool) -> None:
        self.consumer: Consumer | None = None
        self._begin = begin
        self._ends = dict(ends)
        self._positions: dict[TopicPartition, int] = dict(ends) if begin is None else {}
        self._until_end = until_end

    @property
    def over(self) -> bool:
        """Whether everything was read that was to be read."""
        return self._until_end and all(self._position(place) >= end for place, end in self._ends.items())

    def take(self, delivery: Delivery) -> bool:
        """Note that a record was read; tell whether it is meant."""
        self._positions[delivery.place] = delivery.offset + 1
        return not self._until_end or delivery.offset < self._ends.get(delivery.place, 0)

    def _position(self, place: TopicPartition) -> int:
        # What no poll returns (control records, compacted ones) is passed by the consumer alone.
        at = None if self.consumer is None else self.consumer.position(place)
        return max(self._positions.get(place, 0), at or 0)

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Nothing is committed."""

    async def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Go on where we were, or begin."""
        assert self.consumer is not None
        new = sorted(partitions - self._positions.keys())
        if self._begin:
            self._positions |= await self.consumer.offsets_at(new, self._begin)
        else:
            self._positions |= await self.consumer.begin_offsets(new)
        for place in partitions:
            self.consumer.seek(place, self._positions[place])


class _Shown:
    """Prints events one by one, so that nothing grows however many there are."""

    def __init__(self, shell: Shell, reader: Payloads | None) -> None:
        self._shell = shell
        self._reader = reader
        self.count = 0
        if shell.output in ("text", "wide"):
            shell.lines([_row(("TIME", "TYPE", "KEY", "AT", "SAGA"), "SIZE")])

    async def show(self, delivery: Delivery, envelope: Envelope | None) -> None:
        from ..payloads import told_secrets
        from .times import clock_time

        shell = self._shell
        payload: tuple[Any, str | None] | None = None
        if self._reader is not None and delivery.value is not None:
            kind, type_, id_ = ("", "", "") if envelope is None else (envelope.content_type, envelope.type, envelope.id)
            payload = await self._reader.read(delivery.value, kind, type_, id_, told_secrets(delivery.headers))
        if shell.machine:
            self._object(_told(delivery, envelope, payload, asked=self._reader is not None))
        elif shell.output == "id":
            shell.lines([envelope.id if envelope is not None else _place(delivery)])
        else:
            cells = [
                clock_time(delivery.timestamp * 1_000, shell.time or "local"),
                envelope.type if envelope is not None else "-",
                _key(delivery) or "-",
                _place(delivery),
                _saga(envelope) or "-",
            ]
            shell.lines([_row(cells, f"{len(delivery.value or b''):,}"), *_spelled(payload)])
        self.count += 1

    def _object(self, told: dict[str, Any]) -> None:
        # One list, written as it grows: it is JSON, too, when somebody has interrupted it.
        if self._shell.output == "json":
            self._shell.lines([("[\n" if self.count == 0 else ",") + json.dumps(told, ensure_ascii=False)])
        else:
            self._shell.json_line(told)

    def close(self) -> None:
        if self._shell.output == "json":
            self._shell.lines(["[]" if self.count == 0 else "]"])


def _chosen(asked: Sequence[str], there: Sequence[str]) -> list[str]:
    """Choose topics: those that are named, also by patterns; else all but dead letters and our own."""
    from ...events.errors import TopicMissing

    if not asked:
        return [name for name in there if not name.startswith((_OURS, "_")) and not name.endswith(".dlq")]
    found = {name: [each for each in there if fnmatchcase(each, name)] for name in asked}
    if missing := [name for name, each in found.items() if not each]:
        raise TopicMissing(f"there is no topic {', '.join(map(repr, missing))}; saga topics list shows what there is")
    return sorted({each for names in found.values() for each in names})


def _wanted(types: Sequence[str], keys: Sequence[str], saga: str) -> Callable[[Delivery, Envelope | None], bool]:
    def wanted(delivery: Delivery, envelope: Envelope | None) -> bool:
        name = _saga(envelope) or ""
        return (
            (not types or (envelope is not None and envelope.type in types))
            and (not keys or _key(delivery) in keys)
            and (not saga or saga in (name, name.partition("~")[0], _key(delivery)))
        )

    return wanted


def _envelope(delivery: Delivery) -> Envelope | None:
    """Read what travels beside a payload; None where that is of somebody who writes it otherwise."""
    from ...events.envelope import read_envelope
    from ...events.errors import EventError

    try:
        return read_envelope(delivery)
    except EventError:
        return None


def _told(
    delivery: Delivery, envelope: Envelope | None, payload: tuple[Any, str | None] | None, *, asked: bool
) -> dict[str, Any]:
    from ..report import rfc3339

    told = {
        "schema": EVENT,
        "at": rfc3339(delivery.timestamp * 1_000),
        "topic": delivery.topic,
        "partition": delivery.partition,
        "offset": delivery.offset,
        "key": _key(delivery),
        "type": envelope.type if envelope is not None else None,
        "event_id": envelope.id if envelope is not None else None,
        "source": envelope.source or None if envelope is not None else None,
        "event_time": rfc3339(envelope.time) if envelope is not None else None,
        "saga": _saga(envelope),
        "step": envelope.saga_step if envelope is not None else None,
        "size": len(delivery.value or b""),
    }
    if asked:
        value, problem = payload or (None, None)
        told |= {"payload": json.loads(json.dumps(value, default=str)), "payload_error": problem}
    return told


def _saga(envelope: Envelope | None) -> str | None:
    if envelope is None or envelope.saga_id is None:
        return None
    return envelope.saga_id if (envelope.saga_run or 1) == 1 else f"{envelope.saga_id}~{envelope.saga_run}"


def _key(delivery: Delivery) -> str | None:
    return None if delivery.key is None else delivery.key.decode(errors="replace")


def _place(delivery: Delivery) -> str:
    return f"{delivery.topic}/{delivery.partition} offset {delivery.offset}"


def _row(cells: Sequence[str], last: str) -> str:
    return "  ".join([*(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)), last])


def _spelled(payload: tuple[Any, str | None] | None) -> list[str]:
    if payload is None:
        return []
    value, problem = payload
    return [f"  {problem or json.dumps(value, ensure_ascii=False, default=str)}"]
