"""The partition of a key must be what every other Kafka client says."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from choreo.events.partitioner import murmur2, partition_for


# From the tests of Java's client, org.apache.kafka.common.utils.UtilsTest.testMurmur2.
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_javas(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected % 2**32


@given(st.binary(max_size=200), st.integers(1, 500))
def test_any_key_goes_where_the_default_partitioner_of_aiokafka_sends_it(key: bytes, partitions: int) -> None:
    everywhere = list(range(partitions))
    assert partition_for(key, partitions) == DefaultPartitioner()(key, everywhere, everywhere)
