"""A saga as a picture: as text, as Mermaid and as SVG."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from choreo.saga.cli import exits
from choreo.saga.graph import graph_of, mermaid, svg, text
from tests.saga.play import LINE, PIVOT, Play, define, plan
from tests.support.console import Console, validate

ODD = define(
    plan("card", 0),
    plan("invoice", 1),
    plan("ship", 2, any_of=(("card", "invoice"),)),
    plan("van", 3, instead_of="ship"),
    plan("report", 4, final=True, undo=None, undone=()),
)


def test_text_shows_every_step_in_its_column_with_what_comes_before_it() -> None:
    lines = text(graph_of(PIVOT))
    assert lines[0] == "order@1  starts with placed"
    assert "   └─ ship  after reserve, charge" in lines
    assert any(line.strip() == "pivot" for line in lines)
    assert lines[-1] == "publishes ended or reversed at its end"


def test_the_edges_say_how_a_step_comes_before_another() -> None:
    edges = {(edge.before, edge.after): edge.kind for edge in graph_of(ODD).edges}
    assert edges == {("card", "ship"): "any of", ("invoice", "ship"): "any of", ("ship", "van"): "instead of"}
    depths = {node.name: node.depth for node in graph_of(ODD).nodes}
    assert depths["report"] > depths["van"] > depths["ship"] > depths["card"]


def test_states_of_an_instance_stand_there_as_words_in_every_form() -> None:
    play = Play(LINE)
    play.sees("reserve.done")
    play.sees("charge.failed")
    graph = graph_of(LINE, play.instance)
    assert graph.title == "order/4711"
    for form in (text, mermaid, svg):
        drawn = "\n".join(form(graph))
        assert all(word in drawn for word in ("COMPENSATING", "FAILED", "SKIPPED")), form.__name__


def test_hostile_names_stay_text() -> None:
    evil = define(plan('a"]; click s0 "javascript:x', 0, done=("<script>alert(1)</script>",)))
    drawn = "\n".join(mermaid(graph_of(evil)))
    assert '"]; click' not in drawn
    root = ElementTree.fromstring("\n".join(svg(graph_of(evil))))
    assert all(element.tag.rpartition("}")[2] != "script" for element in root.iter())


def test_svg_boxes_do_not_overlap() -> None:
    root = ElementTree.fromstring("\n".join(svg(graph_of(ODD))))
    boxes = [
        tuple(float(element.attrib[name]) for name in ("x", "y", "width", "height"))
        for element in root.iter()
        if element.tag.endswith("rect")
    ]
    assert len(boxes) == len(ODD.steps)
    for number, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, _, _ in boxes[number + 1 :]:
            assert other_x >= x + width or other_y >= y + height or other_x + width <= x


def test_the_command_draws_code_that_never_ran(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saga = Console(capsys, tmp_path)
    target = "choreo.saga.demo.saga:Fulfilment"
    assert "└─ ship  after charge, book" in saga("graph", target).out
    assert saga("graph", target, "--as", "mermaid").out.startswith("flowchart LR\n")
    validate(saga("graph", target, "-o", "json").json, "saga.graph/v1")
    file = tmp_path / "fulfilment.svg"
    assert saga("graph", target, "--out", file).code == exits.OK
    assert ElementTree.parse(file).getroot().tag.endswith("svg")
    assert saga("graph", target, "--out", tmp_path / "no" / "x.svg").code == exits.USAGE
