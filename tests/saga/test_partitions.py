"""A topic is given more partitions while sagas run: keys move, and an answer may lie where nobody has read yet."""

from __future__ import annotations

from pathlib import Path

from structlog.testing import capture_logs

from choreo.events.clock import SECOND
from choreo.events.memory import MemoryBroker, _Partition
from choreo.events.partitioner import partition_for
from choreo.events.transport import TopicSpec
from choreo.saga import partitions
from tests.saga.stage import Past, Placed, Reserved, Stage

STAYS, MOVES = "5", "3"


def grow(broker: MemoryBroker, topic: str) -> None:
    """Do what Kafka's `create_partitions` does; the group is not told, as with Kafka until its members look again."""
    broker._state.topics[topic].append(_Partition())


async def test_ruling_1_no_limit_fires_before_a_partition_that_is_new_was_read(tmp_path: Path) -> None:
    assert partition_for(STAYS.encode(), 3) == partition_for(STAYS.encode(), 2)
    assert partition_for(MOVES.encode(), 3) == 2
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", sagas=(Past,)) as stage:
        await stage.start()
        await stage.publish(Placed(order_id=STAYS), Placed(order_id=MOVES))
        await stage.until(lambda found: len(found) == 2)
        grow(stage.broker, "inventory")
        await stage.publish(Reserved(order_id=MOVES))
        stage.now += 31 * SECOND
        found = await stage.until(lambda found: found[f"past/{STAYS}"].phase.ended)
        assert found[f"past/{MOVES}"].phase == "RUNNING", "its answer lies in a partition that nobody has read"
        await stage.stop()

        await stage.start()  # it has every partition from now on
        stage.now += SECOND
        found = await stage.until(lambda found: found[f"past/{MOVES}"].steps["reserve"].done is not None)
        assert found[f"past/{MOVES}"].phase == "RUNNING", "it was late, and it had come in time"


async def test_ruling_1_the_old_partition_of_a_key_counts_after_a_restart_as_well(tmp_path: Path) -> None:
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", sagas=(Past,)) as stage:
        first = await stage.start()
        assert first._partitions.places("inventory", MOVES) == {partition_for(MOVES.encode(), 2)}
        await stage.stop()
        grow(stage.broker, "inventory")
        second = await stage.start()
        assert second._partitions.places("inventory", MOVES) == {2, partition_for(MOVES.encode(), 2)}
        assert (await stage.database.read(partitions.fewest))["inventory"] == 2
        assert second._partitions.places("orders", MOVES) == {partition_for(MOVES.encode(), 2)}


async def test_a_coordinator_keeps_and_tells_of_its_own_topics_partitions_only(tmp_path: Path) -> None:
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", sagas=(Past,)) as stage:
        await stage.broker.create_topics([TopicSpec("strangers", 2)])
        coordinator = await stage.start()
        kept = await stage.database.read(partitions.fewest)
        assert kept["inventory"] == 2
        assert "strangers" not in kept
        grow(stage.broker, "strangers")
        grow(stage.broker, "inventory")
        with capture_logs() as said:
            await coordinator._partitions.look()
        assert [each["topic"] for each in said if "more partitions" in each["event"]] == ["inventory"]
        assert "strangers" not in await stage.database.read(partitions.fewest)
