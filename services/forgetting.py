"""Takes the words out of dead letters for ever, although a log cannot be changed: it is written anew, and cut.

What a partition holds is sent to its end once more, each letter under the id and the time that it had, those that are
to be forgotten without what they said; then everything before is deleted (KIP-107). A death in between leaves letters
twice, of which the later one counts; done again, it ends the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..events.envelope import Delivery, Headers, Record, TopicPartition
from ..events.transport import Transport
from .dead_letters import PREFIX
from .letters import ERASED, SUFFIX, Letter, read_letter

_CHUNK = 500
_KEPT = frozenset(("ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "saga-id", "saga-run", "saga-step"))
_WORDS = frozenset((PREFIX + "message", PREFIX + "value", PREFIX + "id"))


async def erase_letters(transport: Transport, forgets: Callable[[Letter], bool]) -> int:
    """Take the words out of letters: their bodies, their own headers and the texts of their errors.

    Args:
        transport: an open broker.
        forgets: which letters.

    Returns:
        How many had words and have none now.

    Raises:
        ConfigurationError: the broker does not let records be deleted.
        TransportError: the broker does not answer; say it again.
    """
    number = 0
    for topic in sorted(name for name in await transport.topics() if name.endswith(SUFFIX)):
        by_partition: dict[int, list[Delivery]] = {}
        for delivery in await transport.snapshot(topic):
            by_partition.setdefault(delivery.partition, []).append(delivery)
        for partition, deliveries in by_partition.items():
            letters = [read_letter(delivery) for delivery in deliveries]
            # Also where a later copy has no words any more: whoever made that died before the cut.
            gone = {letter.id for letter in letters if not letter.erased and forgets(letter)}
            if gone:
                await _rewrite(transport, {letter.id: letter for letter in letters}.values(), gone)
                await transport.delete_records({TopicPartition(topic, partition): deliveries[-1].offset + 1})
                number += len(gone)
    return number


async def _rewrite(transport: Transport, letters: Iterable[Letter], gone: set[str]) -> None:
    records = [_copy(letter, forgotten=letter.id in gone) for letter in letters]
    for start in range(0, len(records), _CHUNK):
        await transport.send(records[start : start + _CHUNK])


def _copy(letter: Letter, *, forgotten: bool) -> Record:
    old = letter.delivery
    own: Sequence[tuple[str, bytes]] = [(PREFIX + "id", letter.id.encode())]
    if forgotten:
        own = [*own, (PREFIX + "value", ERASED.encode())]
    headers = (*(_without_words(old.headers) if forgotten else _unnamed(old.headers)), *own)
    value = None if forgotten else old.value
    return Record(old.topic, old.key, value, headers, old.timestamp, old.partition)


def _unnamed(headers: Headers) -> Headers:
    return tuple(each for each in headers if each[0] != PREFIX + "id")


def _without_words(headers: Headers) -> Headers:
    return tuple(each for each in headers if each[0] in _KEPT or (each[0].startswith(PREFIX) and each[0] not in _WORDS))
