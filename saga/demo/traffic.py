"""The web shop of the demo: an existing system that publishes orders and knows nothing else.

A pure function of seed and number: the same orders with the same ids each time, however often it is started again.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from random import Random
from typing import NamedTuple

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ...events.errors import ConfigurationError
from ...events.ids import derived_id
from .events import ANVIL, CRASHES, DECLINED, NO_MAIL, PIANO, SLOW_MAIL, UNICORN, OrderPlaced

FIRST = 4711
"""Number of the first order."""

PRICES = {
    "lamp": Decimal("39.90"),
    "teapot": Decimal("24.50"),
    "chair": Decimal("119.00"),
    PIANO: Decimal("4900.00"),
    ANVIL: Decimal("310.00"),
    UNICORN: Decimal("999.99"),
}

_CUSTOMERS = ("ada", "barbara", "edsger", "grace", "katherine", "leslie", "margaret", "tony")


class Mix(BaseSettings):
    """What the traffic looks like: `CHOREO_DEMO_ORDERS=1000 CHOREO_DEMO_DECLINED=0.5 saga demo`.

    Args:
        orders: how many.
        seed: decides which order meets which trouble.
        pace: orders per second.
        declined, sold_out, refused, timed_out, crashed: shares of orders whose card is declined, whose article runs
            out, that no carrier takes, whose carrier answers too late, on which a handler crashes.
        bounced: share of orders whose receipt is refused once; as many again, where it is refused always.
        twice: share of orders that are published twice.
    """

    model_config = SettingsConfigDict(env_prefix="CHOREO_DEMO_", extra="ignore", frozen=True)

    orders: int = Field(default=200, ge=1, le=1_000_000)
    seed: int = 4711
    pace: float = Field(default=40.0, gt=0)
    declined: float = Field(default=0.08, ge=0, le=1)
    sold_out: float = Field(default=0.04, ge=0, le=1)
    refused: float = Field(default=0.03, ge=0, le=1)
    timed_out: float = Field(default=0.03, ge=0, le=1)
    crashed: float = Field(default=0.02, ge=0, le=1)
    bounced: float = Field(default=0.03, ge=0, le=1)
    twice: float = Field(default=0.05, ge=0, le=1)


def load_mix(**overrides: object) -> Mix:
    """Read the environment; `overrides` win where they are not None.

    Raises:
        ConfigurationError: naming the setting that is wrong, and why.
    """
    try:
        return Mix(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ConfigurationError(f"setting CHOREO_DEMO_{str(first['loc'][0]).upper()}: {first['msg']}") from None


class Placed(NamedTuple):
    """An order as it is published.

    Args:
        event: the order.
        event_id: always the same for this order and seed.
        copies: how often it is published.
    """

    event: OrderPlaced
    event_id: str
    copies: int


def traffic(mix: Mix) -> Iterator[Placed]:
    """Give the orders, in the order in which customers place them."""
    random = Random(mix.seed)
    troubles = _spread(mix, random)
    twice = set(random.sample(range(mix.orders), _number(mix.twice, mix.orders)))
    for index in range(mix.orders):
        placed = _order(mix.seed, index, troubles.get(index, ""))
        yield Placed(placed, derived_id("demo", str(mix.seed), placed.order_id), 2 if index in twice else 1)


def _spread(mix: Mix, random: Random) -> dict[int, str]:
    """Give each troubled order its trouble: none has two, and the shares are exact."""
    shares = {
        UNICORN: mix.sold_out,
        ANVIL: mix.refused,
        PIANO: mix.timed_out,
        DECLINED: mix.declined,
        CRASHES: mix.crashed,
        SLOW_MAIL: mix.bounced,
        NO_MAIL: mix.bounced,
    }
    numbers = {trouble: _number(share, mix.orders) for trouble, share in shares.items()}
    numbers[UNICORN] += 1 if numbers[UNICORN] else 0  # the first takes what there is
    wanted = [trouble for trouble, number in numbers.items() for _ in range(number)][: mix.orders]
    return dict(zip(random.sample(range(mix.orders), len(wanted)), wanted, strict=True))


def _number(share: float, orders: int) -> int:
    """At least one of each, or a small demo would show nothing."""
    return min(orders, max(1, round(share * orders))) if share else 0


def _order(seed: int, index: int, trouble: str) -> OrderPlaced:
    own = Random(f"{seed}/{index}")
    customer = own.choice(_CUSTOMERS)
    article = trouble if trouble in PRICES else own.choice(("lamp", "teapot", "chair"))
    quantity = 2 if article == UNICORN else own.randint(1, 3)
    return OrderPlaced(
        order_id=str(FIRST + index),
        customer=customer,
        email=customer + (trouble if trouble.startswith("@") else "@mail.example"),
        article=article,
        quantity=quantity,
        total=PRICES[article] * quantity,
        card=trouble if trouble.startswith("card-") else f"card-{own.randint(1000, 9999)}",
    )
