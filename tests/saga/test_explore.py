"""`explore`: the demo shop and small sagas, run with everything going wrong that may."""

from __future__ import annotations

from random import Random

import pytest

from choreo import Event
from choreo.saga.demo.saga import Fulfilment
from choreo.saga.demo.shop import SERVICES
from choreo.saga.demo.traffic import Mix, traffic
from choreo.saga.testing import Explorer, explore


def orders(random: Random) -> list[Event]:
    return [placed.event for placed in traffic(Mix(orders=3, seed=random.randrange(1_000_000)))]


def test_the_demo_shop_keeps_every_rule_whatever_goes_wrong() -> None:
    explored = explore(Fulfilment, SERVICES, events=orders, seeds=20)
    assert explored.runs == 20
    assert explored.failure is None


@pytest.mark.parametrize("seed", ["41", "105"])
def test_a_seed_gives_one_run(seed: str) -> None:
    explorer = Explorer(Fulfilment, SERVICES, events=orders)
    digests = {explorer.digest(seed) for _ in range(2)}
    explorer.close()
    assert len(digests) == 1
