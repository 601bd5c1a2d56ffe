"""What views ask of the store gives the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from sqlalchemy import update

from choreo import Saga, step
from choreo.events.errors import AmbiguousSaga, ConfigurationError, SagaNotFound
from choreo.saga import queries
from choreo.saga.conditions import conditions
from choreo.saga.paging import page_of
from choreo.saga.queries import Brakes, Filter
from choreo.saga.report import Observed
from choreo.saga.tables import saga
from choreo.saga.words import Phase, StepState
from tests.saga.stage import Again, Declined, Order, Paid, Placed, Refused, Reserved, Stage


async def _fill(stage: Stage) -> None:
    """Orders 10 (completed), 11 (compensating), 12 (running), 13 (undone at once), each also as `again`."""
    stage.sagas = (Order, Again)
    await stage.start()
    await stage.publish(Placed(order_id="10"), Reserved(order_id="10"), Paid(order_id="10"))
    await stage.publish(Placed(order_id="11"), Reserved(order_id="11"), Declined(order_id="11"))
    await stage.publish(Placed(order_id="12"))
    await stage.until(lambda found: len(found) == 6)  # the next one is the latest on PostgreSQL's clock too
    await stage.publish(Placed(order_id="13"), Refused(order_id="13"))
    await stage.until(
        lambda found: (
            len(found) == 8
            and found["order/10"].phase is Phase.COMPLETED
            and found["order/11"].phase is Phase.COMPENSATING
            and found["order/13"].phase is Phase.COMPENSATED
            and found["again/10"].phase is found["again/11"].phase is Phase.COMPLETED
        )
    )


async def test_views_see_the_same_on_both_databases(stage: Stage) -> None:
    await _fill(stage)
    read = stage.database.read

    async def ids(wanted: Filter, sort: str = "key") -> list[str]:
        rows = await read(lambda connection: queries.list_sagas(connection, wanted, sort=sort, limit=None))
        return [row.id for row in rows]

    assert await ids(Filter(types=["order"])) == ["order/10", "order/11", "order/12", "order/13"]
    assert await ids(Filter(phases=["COMPENSATING", "COMPENSATED"])) == ["order/11", "order/13"]
    assert await ids(Filter(only_open=True, types=["order"])) == ["order/11", "order/12"]
    assert await ids(Filter(only_failed=True)) == []
    assert await ids(Filter(keys=["10"], steps=["reserve"])) == []
    assert await ids(Filter(conditions=["Late"])) == []
    assert len(await ids(Filter(since=0, until=1 << 62))) == 8
    for sort in queries.SORTS:
        assert sorted(await ids(Filter(), sort)) == await ids(Filter())
    attention = await ids(Filter(types=["order"]), "attention")
    assert set(attention[:2]) == {"order/11", "order/12"}
    counts = await read(lambda connection: queries.count_phases(connection, Filter(types=["order"])))
    assert counts == {"COMPLETED": 1, "COMPENSATING": 1, "RUNNING": 1, "COMPENSATED": 1}


async def test_names_are_found_the_same_on_both_databases(stage: Stage) -> None:
    await _fill(stage)
    read = stage.database.read
    assert await read(lambda connection: queries.resolve(connection, "order/10")) == "order/10"
    assert await read(lambda connection: queries.resolve(connection, "@latest:order")) == "order/13"
    with pytest.raises(AmbiguousSaga) as ambiguous:
        await read(lambda connection: queries.resolve(connection, "10"))
    assert ambiguous.value.ids["candidates"] == ["again/10", "order/10"]
    with pytest.raises(SagaNotFound, match="near it: again/10, order/10"):
        await read(lambda connection: queries.resolve(connection, "order/1"))
    with pytest.raises(ConfigurationError, match="write @latest"):
        await read(lambda connection: queries.resolve(connection, "@newest"))


async def test_one_saga_is_read_whole_with_its_history(stage: Stage) -> None:
    await _fill(stage)
    read = stage.database.read
    found = await read(lambda connection: queries.load(connection, "order/13"))
    assert found.definition.type == "order"
    assert found.instance.phase is Phase.COMPENSATED
    entries = await read(lambda connection: queries.read_history(connection, "order/13"))
    assert [(entry.seq, entry.type, entry.source) for entry in entries] == [
        (1, "Placed", "test"),
        (2, "Refused", "test"),
    ]
    assert await read(lambda connection: queries.read_history(connection, "order/13", after=2)) == []
    with pytest.raises(SagaNotFound):
        await read(lambda connection: queries.load(connection, "order/99"))
    definition = await read(lambda connection: queries.newest_definition(connection, "order"))
    assert definition == found.definition
    with pytest.raises(SagaNotFound, match="it knows again, order"):
        await read(lambda connection: queries.newest_definition(connection, "nosuch"))
    assert await read(queries.brakes) == (False, False, frozenset())


async def test_the_ledger_counts_and_names_what_waits(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Reserved(order_id="early"))
    await stage.publish(Placed(order_id="1"), Refused(order_id="1"))
    await stage.until(lambda found: "order/1" in found and found["order/1"].phase is Phase.COMPENSATED)
    waiting = await stage.database.read(queries.count_parked)
    assert {key: count for key, (count, _) in waiting.items()} == {("order", "Reserved"): 1}
    rows = await stage.database.read(queries.read_ignored)
    assert all(row["count"] >= 1 for row in rows)


class Lenient(Saga, start=Placed, key="order_id"):
    reserve = step(done=Reserved, failed=Refused, undo=None, within="30s", optional=True)
    charge = step(done=Paid, failed=Declined, undo=None, within="30s")


async def test_conditions_that_follow_from_the_state_alone_are_found_on_both_databases(stage: Stage) -> None:
    stage.sagas = (Lenient,)
    await stage.start()
    await stage.publish(Placed(order_id="1"), Placed(order_id="2"), Placed(order_id="3"))
    await stage.publish(Refused(order_id="1"), Declined(order_id="2"), Declined(order_id="3"))
    await stage.until(
        lambda found: (
            len(found) == 3
            and found["lenient/1"].steps["reserve"].state is StepState.DEGRADED
            and found["lenient/2"].phase.ended
            and found["lenient/3"].phase.ended
        )
    )
    unsampled = replace((await stage.instances())["lenient/2"], sampled=False)
    written = update(saga).where(saga.c.id == "lenient/2").values(state=unsampled.to_json())
    await stage.database.write(lambda connection: connection.execute(written))
    stage.verified = False  # the history does not know of it
    for condition, name in (("Degraded", "lenient/1"), ("TraceIncomplete", "lenient/2")):
        wanted = Filter(conditions=[condition])
        rows = await stage.database.read(lambda c, wanted=wanted: queries.list_sagas(c, wanted, limit=None))
        assert [row.id for row in rows] == [name]
        page = await stage.database.read(lambda c, wanted=wanted: page_of(c, wanted, sort="attention", limit=5))
        assert [row.id for row in page.rows] == [name]
        found = await stage.database.read(lambda c, name=name: queries.load(c, name))
        told = conditions(found.instance, Observed(stage.now), Brakes(False, False))
        assert condition in {each["type"] for each in told}
