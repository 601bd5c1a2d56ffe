"""With very many sagas in the store, whatever a coordinator asks of it goes along an index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import Engine

from choreo import Saga, lock, step
from choreo.events import prepared
from choreo.events.ids import new_id
from choreo.saga import loaded, queries
from tests.saga.stage import Asking, Declined, Order, Paid, Placed, Refused, Released, Reserved, Stage
from tests.web.many import fill

SAGAS = 12_000
GROWING = "choreo_(?:saga|saga_parked|history|sent|command|audit|alert|lock|admission)"
"""Tables that grow with the number of sagas, or of what is said about them."""


class Locking(Saga, start=Placed, key="order_id", lock=lock("total", name="total", waits="10m", expires="2h")):
    reserve = step(done=Reserved, undo=None, within="5m")


class Limited(Saga, start=Placed, key="order_id", max_open=2):
    reserve = step(done=Reserved, undo=None, within="5m")


@contextmanager
def _recorded() -> Iterator[dict[str, Any]]:
    """Note each statement that goes to a database, with parameters that it had; SQLAlchemy runs all of them."""
    found: dict[str, Any] = {}

    def note(_: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")) and re.search(GROWING, statement):
            found.setdefault(statement, parameters[0] if many else parameters)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        with patch.object(prepared, "driver_of", lambda _: None):
            yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def _live(stage: Stage) -> None:
    """Let sagas go forward, fail, be undone, wait in vain, come too early, and obey a person."""
    ids = [str(number) for number in range(6)]
    await stage.publish(Reserved(order_id="early"), *(Placed(order_id=each) for each in ids))
    await stage.settled()
    await stage.publish(*(Reserved(order_id=each) for each in ids[:4]), Refused(order_id="4"))
    await stage.settled()
    again = new_id()
    for _ in range(2):
        await stage.publish(Paid(order_id="0"), id=again)
    await stage.publish(Declined(order_id="1"), Placed(order_id="early"))
    await stage.settled()
    await stage.publish(Released(order_id="1"))
    await stage.settled()
    assert await stage.ask("cancel", saga_id="order/2", reason="called") == ("applied", "order/2 is COMPENSATING")
    stage.now += 11 * 60_000_000  # a limit passes, and a command is sent again
    await stage.settled()


def _walked(connection: Connection, statements: dict[str, Any]) -> dict[str, str]:
    """Give the plans of the statements that read a growing table from end to end."""
    sqlite = connection.dialect.name == "sqlite"
    if not sqlite:
        # Many of these tables hold a few rows here: what is still read from end to end has no index that would do.
        connection.execute(text("SET LOCAL enable_seqscan = off"))
    walked = {}
    for statement, parameters in statements.items():
        explain = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN "
        rows = connection.exec_driver_sql(explain + statement, parameters).all()
        plan = "\n".join(str(row[-1]) for row in rows)
        if re.search(rf"SCAN {GROWING}(?! USING)\b|Seq Scan on {GROWING}\b", plan):
            walked[statement] = plan
    return walked


async def test_whatever_a_coordinator_asks_goes_along_an_index(stage: Stage) -> None:
    stage.verified = False  # these sagas were written without a history
    stage.sagas = (Order, Asking, Locking, Limited)
    await stage.start()
    found = await stage.database.read(lambda c: queries.newest_definition(c, "order"))
    now = await stage.database.read(stage.database.now)
    await stage.database.write(lambda c: fill(c, SAGAS, now, version=found.version, hash_=found.hash))
    if stage.url.startswith("postgresql"):
        await stage.database.write(lambda c: c.execute(text("ANALYZE")))
    with _recorded() as statements:
        await _live(stage)
        await stage.stop()
        await stage.start()  # what it does first: spans that were not emitted, positions, definitions
        await stage.settled()
    with _recorded() as looking:
        await stage.instances()
    statements = {statement: parameters for statement, parameters in statements.items() if statement not in looking}
    asked = " ".join(statements)
    for name in (
        "choreo_saga ",
        "choreo_history",
        "choreo_sent",
        "choreo_saga_parked",
        "choreo_command",
        "choreo_lock ",
        "choreo_admission ",
    ):
        assert name in asked, f"nothing was asked of {name}"
    sqlite = stage.url.startswith("sqlite")
    explain = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN "
    with _recorded() as paused:
        await stage.database.read(lambda c: loaded.paused(c, [("order", 1)], 10))
    for statement, given in [each for each in paused.items() if "Paused" in each[0]]:
        rows = await stage.database.read(lambda c, s=statement, g=given: c.exec_driver_sql(explain + s, g).all())  # type: ignore[misc]
        assert "choreo_saga_paused" in str(rows), "not along all sagas of the type"
    noticed = {"SELECT id FROM choreo_saga WHERE epoch = 7": ()}
    assert await stage.database.read(lambda c: _walked(c, noticed)), "a statement without an index would be noticed"
    walked = await stage.database.read(lambda c: _walked(c, statements))
    assert not walked, "\n\n".join(f"{statement}\n{plan}" for statement, plan in walked.items())
