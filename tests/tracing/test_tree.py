"""The tree of a trace does not depend on how its spans arrived."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from opentelemetry.sdk.resources import Resource

from choreo.tracing.saga_spans import end_spans, started_spans, step_spans
from choreo.tracing.spanfile import to_row
from choreo.tracing.tree import SpanRow, build_tree
from tests.support.otlp import outline
from tests.tracing.stories import COMPENSATED, STEPS

SAGA = Resource({"service.name": "saga"})


def row(span_id: str, parent: str | None = None, start: int = 0, end: int = 10, **fields: Any) -> SpanRow:
    return replace(SpanRow("t", span_id, parent, span_id, "INTERNAL", "s", start, end), **fields)


def story_rows() -> list[SpanRow]:
    spans = [*started_spans(COMPENSATED, SAGA)[:1], *end_spans(COMPENSATED, SAGA)]
    for step in STEPS:
        spans += step_spans(COMPENSATED, step, SAGA)
    rows = [each for span in spans if (each := to_row(span)) is not None]
    charge = next(each for each in rows if each.name == "step charge")
    attempts = [
        SpanRow(
            charge.trace_id,
            f"{n:016x}",
            charge.span_id,
            "process inventory",
            "CONSUMER",
            "payments",
            charge.start + n,
            charge.end,
        )
        for n in (1, 2, 3)
    ]
    return rows + attempts


ROWS = story_rows()
EXPECTED = build_tree(ROWS)


@given(st.permutations(range(len(ROWS))), st.lists(st.sampled_from(range(len(ROWS)))))
def test_any_order_of_arrival_and_any_duplicate_give_the_same_tree(order: list[int], again: list[int]) -> None:
    assert build_tree([ROWS[n] for n in (*order, *again)]) == EXPECTED


@given(st.sets(st.sampled_from(range(len(ROWS)))), st.randoms(use_true_random=False))
def test_no_span_is_hidden_and_orphans_say_so(lost: set[int], random: object) -> None:
    arrived = [each for n, each in enumerate(ROWS) if n not in lost]
    nodes = build_tree(arrived)
    assert sorted(node.span.span_id for node in nodes) == sorted(each.span_id for each in arrived)
    present = {each.span_id for each in arrived}
    for node in nodes:
        assert node.orphan == (node.span.parent_id is not None and node.span.parent_id not in present)


def test_a_running_saga_shows_what_is_there() -> None:
    running = [each for each in ROWS if each.name in ("saga fulfilment started", "step reserve", "process inventory")]
    assert outline(build_tree(running)) == [
        "saga fulfilment started [saga] orphan -> origin",
        "step reserve [saga] orphan -> trigger",
        "process inventory [payments] orphan",
        "process inventory [payments] orphan",
        "process inventory [payments] orphan",
    ]


def test_the_node_carries_what_a_waterfall_needs() -> None:
    parent = row("a", start=5, end=50, service="shop", status="ERROR")
    child = row("b", "a", 7, 9, attributes={"saga.queue_ms": 31})
    second = row("c", "a", 8, 9, attributes={"saga.queue_ms": "no number"})
    nodes = build_tree([second, child, parent])
    assert [(n.name, n.depth, n.start, n.end, n.service, n.status, n.queue_ms, n.last) for n in nodes] == [
        ("a", 0, 5, 50, "shop", "ERROR", None, True),
        ("b", 1, 7, 9, "s", "UNSET", 31, False),
        ("c", 1, 8, 9, "s", "UNSET", None, True),
    ]


def test_of_one_id_with_two_contents_the_later_end_stays() -> None:
    early, late = row("a", end=1), row("a", end=2)
    assert build_tree([early, late]) == build_tree([late, early])
    assert build_tree([late, early])[0].end == 2


def test_a_circle_of_parents_is_shown_once() -> None:
    nodes = build_tree([row("a", "b", 1), row("b", "a", 2), row("self", "self", 3)])
    assert [(node.name, node.depth, node.orphan) for node in nodes] == [
        ("a", 0, True),
        ("b", 1, False),
        ("self", 0, True),
    ]


def test_a_very_deep_trace_is_no_problem() -> None:
    rows = [row(f"{n:05}", f"{n - 1:05}" if n else None, n) for n in range(5_000)]
    nodes = build_tree(reversed(rows))
    assert [node.depth for node in nodes] == list(range(5_000))
    assert build_tree([]) == []
