"""Lanes and the ledger keep their rules for any order of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from choreo.events.envelope import TopicPartition
from choreo.services.lanes import Lanes, Ledger

PLACE = TopicPartition("orders", 0)
OTHER = TopicPartition("orders", 1)


@given(st.lists(st.sampled_from("abc"), max_size=40), st.randoms(use_true_random=False))
def test_items_of_a_lane_take_turns_in_order_and_never_two_at_once(lanes_of_items, random):
    lanes: Lanes[tuple[str, int]] = Lanes()
    running: dict[str, tuple[str, int]] = {}
    done: dict[str, list[int]] = {}
    arrivals = [(lane, number) for number, lane in enumerate(lanes_of_items)]
    while arrivals or running:
        if arrivals and (not running or random.random() < 0.5):
            item = arrivals.pop(0)
            if lanes.enter(item[0], item):
                assert item[0] not in running
                running[item[0]] = item
        else:
            lane = random.choice(sorted(running))
            done.setdefault(lane, []).append(running.pop(lane)[1])
            following = lanes.leave(lane)
            if following is not None:
                running[lane] = following
    assert len(lanes) == 0
    for lane, order in done.items():
        assert order == [number for number, of in enumerate(lanes_of_items) if of == lane]


def test_waiting_items_can_be_dropped_and_the_running_one_stays():
    lanes: Lanes[str] = Lanes()
    assert lanes.enter("k", "first")
    for item in ("x1", "y1", "x2"):
        assert not lanes.enter("k", item)
    assert lanes.drop(lambda item: item.startswith("x")) == ["x1", "x2"]
    assert len(lanes) == 1
    assert lanes.leave("k") == "y1"
    assert lanes.leave("k") is None
    assert lanes.enter("k", "again")


@given(st.lists(st.integers(1, 3), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_row_12_only_the_contiguous_finished_offset_is_committable(gaps, random):
    """Whatever the order of finishing, all below the committed offset is finished, and no more can be committed."""
    offsets, at = [], 0
    for gap in gaps:  # gaps stand for transaction markers and compacted records
        at += gap
        offsets.append(at)
    ledger = Ledger()
    for offset in offsets:
        ledger.begin(PLACE, offset)
    order = list(offsets)
    random.shuffle(order)
    finished: set[int] = set()
    committed = 0
    for offset in order:
        ledger.finish(PLACE, offset)
        finished.add(offset)
        moved = ledger.committable()
        if moved:
            assert moved[PLACE] > committed
            committed = moved[PLACE]
        open_ones = [o for o in offsets if o not in finished]
        below = [o for o in offsets if not open_ones or o < open_ones[0]]
        assert committed == (below[-1] + 1 if below else 0)
        assert ledger.unfinished() == len(open_ones)
        assert ledger.span(PLACE) == (offsets[-1] - open_ones[0] + 1 if open_ones else 0)


def test_a_forgotten_partition_stays_forgotten_when_its_work_ends_late():
    ledger = Ledger()
    ledger.begin(PLACE, 4)
    ledger.begin(OTHER, 9)
    ledger.forget([PLACE])
    ledger.finish(PLACE, 4)
    ledger.finish(OTHER, 9)
    assert ledger.committable([PLACE]) == {}
    assert ledger.committable() == {OTHER: 10}
    assert ledger.committable() == {}


def test_offsets_whose_commit_failed_are_offered_again():
    ledger = Ledger()
    ledger.begin(PLACE, 0)
    ledger.finish(PLACE, 0)
    offsets = ledger.committable()
    assert offsets == {PLACE: 1}
    ledger.put_back(offsets)
    assert ledger.committable() == {PLACE: 1}
