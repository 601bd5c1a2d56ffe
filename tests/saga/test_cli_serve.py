"""What `saga serve` refuses, in one line that says what to do instead; and which events its targets let in."""

from __future__ import annotations

from pathlib import Path

import pytest

from choreo import ConfigurationError
from choreo.saga.cli import exits
from choreo.saga.publishable import load_events
from tests.support.console import Console

SHOP = """
from choreo import Event, HandlerFailed, Saga, Service, step


class Base(Event):
    order_id: str


class OrderPlaced(Base, topic="orders", key="order_id"):
    pass


class StockReserved(Base, topic="inventory", key="order_id"):
    pass


class Release(Base, topic="inventory.commands", key="order_id"):
    pass


class Released(Base, topic="inventory", key="order_id"):
    pass


class Fulfilment(Saga, start=OrderPlaced, key="order_id"):
    reserve = step(done=StockReserved, undo=Release, undone=Released, within="60s")


inventory = Service("inventory")


@inventory.on(OrderPlaced)
async def reserve(order: OrderPlaced) -> StockReserved:
    return StockReserved(order_id=order.order_id)


some = [OrderPlaced, inventory]
text = "a text"
"""


@pytest.mark.parametrize(
    ("arguments", "settings", "told"),
    [
        (("--web", "--gateway"), {}, "start saga serve twice"),
        (("--host", "0.0.0.0"), {}, "everybody could look: set CHOREO_WEB_TOKENS"),
        ((), {"web_tokens": "alice=0123456789abcdef"}, "role:name=token"),
        ((), {"web_tokens": "viewer:alice=short"}, "16 printable"),
        ((), {"web_proxies": "proxy.example"}, "is no address"),
        (("shop.py:OrderPlaced", "--webhook", "http://127.0.0.1/"), {}, "add --gateway"),
        (("--gateway", "--certificate", "x.pem"), {}, "https needs both"),
        (("--gateway", "--host", "0.0.0.0"), {}, "everybody could publish: set CHOREO_GATEWAY_TOKENS"),
        (("--gateway",), {"gateway_tokens": "short-token"}, "16 printable"),
        (("--gateway", "--port", "70000"), {}, "choose another --port"),
        (("--gateway", "shop.py:text"), {}, "name an Event class"),
        (("--gateway", "shop.py:Nothing"), {}, "has no 'Nothing'"),
        (("--webhook", "http://127.0.0.1/"), {}, "CHOREO_WEBHOOK_SECRET is missing"),
        (("--alert-webhook", "http://127.0.0.1/"), {}, "CHOREO_WEBHOOK_SECRET is missing"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    settings: dict[str, str],
    told: str,
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"CHOREO_{name.upper()}", value)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    shop = tmp_path / "shop_to_serve.py"
    shop.write_text(SHOP)
    done = Console(capsys, tmp_path)("serve", *(each.replace("shop.py", str(shop)) for each in arguments))
    assert (done.code, done.out) == (exits.USAGE, "")
    assert told in done.err
    assert len(done.err.splitlines()) == 1
    assert "short-token" not in done.err


@pytest.mark.parametrize(
    ("target", "types"),
    [
        ("OrderPlaced", ["OrderPlaced"]),
        ("inventory", ["OrderPlaced"]),
        ("some", ["OrderPlaced"]),
        ("Fulfilment", ["OrderPlaced", "Released", "StockReserved"]),
        ("", ["OrderPlaced", "Release", "Released", "StockReserved"]),
    ],
)
def test_a_target_lets_in_the_events_that_it_takes(tmp_path: Path, target: str, types: list[str]) -> None:
    """A saga's own commands, choreo's own events and bases are not among them; a module is everything in it."""
    shop = tmp_path / f"shop_{target or 'whole'}.py"
    shop.write_text(SHOP)
    found = load_events([f"{shop}:{target}" if target else str(shop)])
    assert sorted(each.spec().type for each in found) == types


def test_a_target_without_events_is_told(tmp_path: Path) -> None:
    (empty := tmp_path / "empty_to_serve.py").write_text("x = 1\n")
    with pytest.raises(ConfigurationError, match="holds no Event class"):
        load_events([str(empty)])
