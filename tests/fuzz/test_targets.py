"""What the fuzzers run, once: the inputs that they begin from, and what they have found."""

from __future__ import annotations

import pytest

from choreo.events.envelope import AVRO
from tests.fuzz import targets

FOUND = {
    "decode": [
        # A count of 0 spelled in two bytes: scan and fastavro went different ways from there.
        b"\x01\x02\x80\x00\x00\x00\x02" + bytes(14),
    ],
    # A time that can be read, and lies before the year 1 where it is written in UTC.
    "headers": [b"{}\xfek\xfe" + bytes([targets._NAMES.index("ce_time")]) + b"0001-01-01T00:00:00+23:59"],
}


@pytest.mark.parametrize("name", targets.TARGETS)
def test_the_fuzzers_hold_for_what_they_begin_from_and_what_they_found(name: str) -> None:
    for data in (b"", *targets.seeds(name), *FOUND.get(name, ())):
        targets.TARGETS[name](data)


def test_the_decoders_seeds_are_events() -> None:
    """Else the fuzzer would begin outside."""
    for seed in targets.seeds("decode"):
        if seed[0] == 0:
            assert targets._CODEC.decode(targets.Everything, b"\x00\x00\x00\x00\x01" + seed[1:], AVRO)
        if seed[0] == 1:
            assert targets._CODEC.decode_any(b"\x00\x00\x00\x00\x02" + seed[1:], AVRO)
    for number, cls in enumerate((targets.Closed, targets.Whole)):
        value = b"\x00\x00\x00\x00" + bytes([3 + number]) + targets.seeds("encrypted")[number][1:]
        assert targets._CODEC.decode(cls, value, AVRO, id_="1")
