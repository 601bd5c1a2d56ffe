"""The demo's traffic: the same orders for the same seed, and every trouble among them."""

from __future__ import annotations

from collections import Counter

import pytest

from choreo.events.errors import ConfigurationError
from choreo.saga.demo.events import ANVIL, CRASHES, DECLINED, NO_MAIL, PIANO, SLOW_MAIL, UNICORN
from choreo.saga.demo.services import OPENING_STOCK
from choreo.saga.demo.traffic import Mix, Placed, load_mix, traffic


def troubles(placed: Placed) -> list[str]:
    event = placed.event
    values = (event.article, event.card, f"@{event.email.rpartition('@')[2]}")
    return [value for value in values if value in (UNICORN, ANVIL, PIANO, DECLINED, CRASHES, SLOW_MAIL, NO_MAIL)]


def test_the_same_seed_gives_the_same_orders_under_the_same_ids() -> None:
    assert list(traffic(Mix(orders=100, seed=7))) == list(traffic(Mix(orders=100, seed=7)))
    other = list(traffic(Mix(orders=100, seed=8)))
    assert not {each.event_id for each in other} & {each.event_id for each in traffic(Mix(orders=100, seed=7))}


def test_the_shares_are_exact_and_no_order_has_two_troubles() -> None:
    found = [troubles(each) for each in traffic(Mix(orders=1000))]
    assert all(len(each) <= 1 for each in found)
    counted = Counter(trouble for each in found for trouble in each)
    assert counted == {UNICORN: 41, ANVIL: 30, PIANO: 30, DECLINED: 80, CRASHES: 20, SLOW_MAIL: 30, NO_MAIL: 30}
    assert sum(each.copies - 1 for each in traffic(Mix(orders=1000))) == 50


def test_even_a_small_demo_has_every_trouble_and_a_share_of_nothing_has_none() -> None:
    small = Counter(trouble for each in traffic(Mix(orders=20)) for trouble in troubles(each))
    assert small.keys() == {UNICORN, ANVIL, PIANO, DECLINED, CRASHES, SLOW_MAIL, NO_MAIL}
    calm = Mix(orders=50, declined=0, sold_out=0, refused=0, timed_out=0, crashed=0, bounced=0, twice=0)
    assert not any(troubles(each) or each.copies > 1 for each in traffic(calm))


def test_the_scarce_article_runs_out_for_all_but_the_first() -> None:
    wanted = [each.event.quantity for each in traffic(Mix(orders=20)) if each.event.article == UNICORN]
    assert wanted[0] <= OPENING_STOCK[UNICORN] < wanted[0] + wanted[1]


def test_only_the_first_order_has_the_first_number() -> None:
    assert [each.event.order_id for each in traffic(Mix(orders=3))] == ["4711", "4712", "4713"]


def test_the_environment_sets_the_mix_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHOREO_DEMO_ORDERS", "12")
    monkeypatch.setenv("CHOREO_DEMO_DECLINED", "0.5")
    assert load_mix().orders == 12
    assert load_mix(orders=3, seed=None).orders == 3
    assert load_mix().declined == 0.5


def test_a_wrong_setting_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHOREO_DEMO_DECLINED", "2")
    with pytest.raises(ConfigurationError, match="CHOREO_DEMO_DECLINED: Input should be less than or equal to 1"):
        load_mix()
