"""Page by page a list is what it is as a whole: nothing twice, nothing left out, in the same order."""

from __future__ import annotations

import pytest

from choreo.events.errors import ConfigurationError
from choreo.saga import paging, queries
from choreo.saga.queries import Filter
from choreo.saga.words import Phase
from tests.saga.stage import Again, Declined, Order, Paid, Placed, Refused, Reserved, Stage


async def _fill(stage: Stage) -> None:
    stage.sagas = (Order, Again)
    await stage.start()
    for number in range(9):
        await stage.publish(Placed(order_id=f"{number}"))
    await stage.publish(Reserved(order_id="1"), Paid(order_id="1"), Reserved(order_id="2"), Declined(order_id="2"))
    await stage.publish(Refused(order_id="3"))
    await stage.until(
        lambda found: len(found) == 18 and found["order/1"].phase.ended and found["order/3"].phase is Phase.COMPENSATED
    )


async def test_pages_joined_are_the_list(stage: Stage) -> None:
    await _fill(stage)
    filters = (
        Filter(),
        Filter(types=["order"]),
        Filter(only_open=True),
        Filter(phases=["COMPLETED"]),
        Filter(only_failed=True),
        Filter(conditions=["Late"]),
        Filter(steps=["reserve"], types=["order"]),
    )
    for sort in queries.SORTS:
        for wanted in filters:
            whole = await stage.database.read(
                lambda c, w=wanted, s=sort: queries.list_sagas(c, w, sort=s, limit=None)  # type: ignore[misc]
            )
            found: list[str] = []
            after: str | None = ""
            while after is not None:
                page = await stage.database.read(
                    lambda c, w=wanted, s=sort, a=after: paging.page_of(c, w, sort=s, limit=4, after=a)  # type: ignore[misc]
                )
                found += [row.id for row in page.rows]
                after = page.after
            assert found == [row.id for row in whole], (sort, wanted)


@pytest.mark.parametrize(
    "after", ["x", "1:", "1:2", "-1:2:order/1", "1:2:order", "12:2:order/1", f"1:{'9' * 30}:order/1"]
)
async def test_a_place_that_is_none_is_refused(sqlite_stage: Stage, after: str) -> None:
    await sqlite_stage.start()
    with pytest.raises(ConfigurationError):
        await sqlite_stage.database.read(lambda c: paging.page_of(c, Filter(), sort="attention", limit=4, after=after))
