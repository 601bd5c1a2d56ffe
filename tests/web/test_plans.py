"""With very many sagas lists and the overview go along indexes: no query reads all that has ever ended."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event, text

from choreo.events.database import Database
from choreo.saga import audit, grouping, jobs, overview, paging, queries, quiet
from choreo.saga.audit import Who
from choreo.saga.queries import Filter
from choreo.saga.web.feed import changed_since
from tests.saga.stage import Stage
from tests.web.many import HOUR, fill

SAGAS = 12_000
ROWS = 600
TABLES = "choreo_(?:saga|audit|job_item)"
Look = Callable[[Connection, int], Any]


def _page(sort: str = "attention", after: str = "", **filters: Any) -> Look:
    return lambda c, now: paging.page_of(c, Filter(**filters), sort=sort, limit=50, after=after)


LOOKS: dict[str, Look] = {
    "all": _page(),
    "second page": _page(after=f"2:{HOUR * 400_000}:order/0005000"),
    "one state": _page(phases=["COMPENSATED"]),
    "failed": _page(only_failed=True),
    "open": _page(only_open=True),
    "waiting for a person": _page(conditions=["WaitingForPerson"]),
    "late": _page(conditions=["Late"]),
    "a key": _page(keys=["0000042"]),
    "a type": _page(types=["order"]),
    "by start": _page("started"),
    "by change": _page("updated"),
    "by key": _page("key", after="0:1:order/0000400"),
    "by error": lambda c, now: grouping.groups(c, Filter(), "error"),
    "failed by error": lambda c, now: grouping.groups(c, Filter(only_failed=True), "error"),
    "open by step": lambda c, now: grouping.groups(c, Filter(only_open=True), "step"),
    "by state since yesterday": lambda c, now: grouping.groups(c, Filter(since=now - 24 * HOUR), "state"),
    "audit": lambda c, now: audit.read(c, audit.Wanted(before=ROWS - 200), limit=101),
    "one row of the audit": lambda c, now: audit.find(c, 7),
    "batch": lambda c, now: jobs.progress(c, "b-1"),
    "what a batch was refused": lambda c, now: jobs.items(c, "b-1", state="refused", limit=500),
    "who may be stuck": lambda c, now: quiet.page(c, quiet.START, now - 29 * 24 * HOUR, 50),
    "who may be stuck, by turns": lambda c, now: quiet.page(c, (0, now - 600 * HOUR, "order/1"), now - 500 * HOUR, 50),
    "changes": lambda c, now: changed_since(c, now - 5_000_000, 200),
    "overview": lambda c, now: overview.overview(c, now, overview.SPANS["24h"]),
}


@contextmanager
def _recorded(connection: Connection) -> Iterator[list[tuple[str, Any]]]:
    """Note the statements about sagas, as they go to the database."""
    found: list[tuple[str, Any]] = []

    def note(_: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if re.search(r"choreo_(saga|audit|job)", statement) and statement.startswith("SELECT"):
            found.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(connection, "before_cursor_execute", note)


def _plans(connection: Connection, look: Look, now: int) -> dict[str, str]:
    """Give the plan of each statement of a look."""
    with _recorded(connection) as found:
        look(connection, now)
    explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
    plans = {}
    for statement, parameters in found:
        rows = connection.exec_driver_sql(explain + statement, parameters).all()
        plans[statement] = "\n".join(str(row[-1]) for row in rows)
    return plans


def _write_records(connection: Connection) -> None:
    """Fill the audit, and some batches."""
    who = Who("ann", via="cli")
    for number in range(ROWS):
        audit.record(connection, "pause", who, outcome=audit.DONE, target=f"order/{number:07d}")
    for number in range(4):
        names = [f"order/{each:07d}" for each in range(1_000)]
        jobs.create(connection, f"b-{number}", "pause", names, who, reason="", about="", rate=50, now=1, by_hand=True)


async def _fill(stage: Stage) -> Database:
    await stage.start()
    found = await stage.database.read(lambda c: queries.newest_definition(c, "order"))
    now = await stage.database.read(stage.database.now)
    await stage.database.write(lambda c: fill(c, SAGAS, now, version=found.version, hash_=found.hash))
    await stage.database.write(_write_records)
    if stage.url.startswith("postgresql"):
        await stage.database.write(lambda c: c.execute(text("ANALYZE")))
    return stage.database


async def test_every_look_goes_along_an_index(stage: Stage) -> None:
    stage.verified = False  # these sagas were written without a history
    database = await _fill(stage)
    now = await database.read(database.now)
    wrong = {}
    for name, look in LOOKS.items():
        for statement, plan in (await database.read(lambda c, look=look: _plans(c, look, now))).items():  # type: ignore[misc]
            whole = re.search(rf"SCAN {TABLES}(?! USING)|Seq Scan on {TABLES}\b", plan)
            counted = "count(" in statement and re.search(rf"SCAN {TABLES}\b", plan)
            sorted_ = re.search(r"USE TEMP B-TREE FOR ORDER BY", plan) and "GROUP BY" not in statement  # groups are few
            if whole or counted or sorted_:
                wrong[name] = f"{statement}\n{plan}"
    walked = (await database.read(lambda c: _plans(c, _page("duration"), now))).values()
    assert any(re.search(r"SCAN choreo_saga\b|Seq Scan on choreo_saga\b", plan) for plan in walked), (
        "a look without an index would be noticed"
    )
    assert not wrong, "\n\n".join(f"{name}: {told}" for name, told in wrong.items())
