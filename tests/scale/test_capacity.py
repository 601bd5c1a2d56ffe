"""The capacity model of `docs/scaling.md` against a simulation that does not know its formulas."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.scale import capacity, comparing
from tests.scale.capacity import Costs, Machines

COSTS = Costs(
    events=4.2,
    records=4.4,
    event=150,
    transaction=8_000,
    server_event=60,
    server_transaction=2_500,
    log_bytes=3_500,
    record_bytes=285,
    saga_bytes=5_000,
    tombstone_bytes=2_000,
    index_bytes=1_000,
    tombstone_index_bytes=300,
    handled=3.2,
    handler=108,
)
MACHINES = Machines()
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(("sagas", "stored", "seconds"), [(20, 1e6, 30), (1_000, 1e7, 5), (100_000, 1e9, 2)])
def test_what_is_reckoned_is_what_is_played_up_to_100_000_sagas_a_second_and_a_billion_stored(
    sagas: float, stored: float, seconds: float
) -> None:
    found = comparing.compared(COSTS, MACHINES, sagas, stored, seconds)
    assert {each.what: each for each in found if each.error > comparing.ERROR} == {}


@pytest.mark.parametrize(
    ("machines", "stored", "coordinators", "full"),
    [
        (MACHINES, 1e7, 2, "coordinators"),
        (replace(MACHINES, cores=1), 1e7, 60, "processors of the database"),
        (MACHINES, 1e7, 60, "write-ahead log"),
        (MACHINES, 1e9, 200, "index pages beyond memory"),
    ],
)
def test_what_is_full_first_is_what_is_reckoned_to_be(
    machines: Machines, stored: float, coordinators: int, full: str
) -> None:
    name, most, played = comparing.overloaded(COSTS, machines, stored, coordinators, seconds=6.0)
    assert (name, played.fullest) == (full, full)
    assert played.events == pytest.approx(most, rel=comparing.ERROR)


def test_needs_grow_with_the_load_and_shards_come_where_one_database_is_full() -> None:
    needed = [capacity.needs(COSTS, MACHINES, sagas, 1e8) for sagas in capacity.SAGAS]
    for name in ("coordinators", "databases", "log_mb", "broker_mb", "service_cores"):
        values = [getattr(each, name) for each in needed]
        assert values == sorted(values)
    assert needed[0].databases == needed[1].databases == 1 < needed[-1].databases
    for sagas, each in zip(capacity.SAGAS, needed, strict=True):
        _, most = capacity.first(capacity.limits(COSTS, MACHINES, 1e8 / each.databases))
        assert sagas / each.databases <= most


def test_the_tables_are_drawn_from_what_was_measured() -> None:
    footprint, results = (json.loads((BENCHMARKS / f"{name}.json").read_text()) for name in ("footprint", "results"))
    drawn = capacity.tables(capacity.read_costs(footprint, results), MACHINES)
    assert "100,000" in drawn and "1,000,000,000" in drawn and "nan" not in drawn
