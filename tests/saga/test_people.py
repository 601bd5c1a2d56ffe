"""Commands of people, as rows of the store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import Connection

from choreo.saga import operators
from tests.saga.stage import Placed, Reserved, Stage


async def test_two_commands_for_one_saga_at_once_are_applied_one_after_the_other(stage: Stage) -> None:
    await stage.start()
    await stage.publish(Placed(order_id="k"), Reserved(order_id="k"))
    await stage.settled()

    def twice(connection: Connection) -> list[str]:
        return [operators.ask(connection, "cancel", saga_id="order/k", by="ann") for _ in range(2)]

    ids = await stage.database.write(twice)

    def answers(connection: Connection) -> list[operators.Answer]:
        return [operators.answer(connection, id_) for id_ in ids]

    for _ in range(6_000):
        told = await stage.database.read(answers)
        if all(each.state != operators.PENDING for each in told):
            break
        await asyncio.sleep(0.01)
    assert [each.state for each in told] == ["applied", "refused"]
    assert told[1].result == "it cannot be cancelled: it is COMPENSATING already"
    assert [row.kind for row in await stage.history("order/k")] == ["event", "event", "operator", "operator"]


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("cancel", {"saga_id": "nonsense"}),
        ("cancel", {}),
        ("start", {"type": "order", "data": [1]}),
        ("start", {"type": "order", "data": {"order_id": "x" * 2_000_000}}),
    ],
)
async def test_a_command_that_makes_no_sense_is_refused_and_holds_up_nothing(
    stage: Stage, kind: str, arguments: dict[str, Any]
) -> None:
    await stage.start()
    assert (await stage.ask(kind, **arguments)).state == "refused"
    assert (await stage.ask("start", type="order", data={"order_id": "9"})).state == "applied"
