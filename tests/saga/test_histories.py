"""What an earlier release decided, this one decides again: its histories replay to the same states and outputs (S3)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from choreo.saga.definition import Definition
from choreo.saga.outputs import write_output
from choreo.saga.past import read_input
from choreo.saga.replay import Applied, Beginning, changes_text, fold

FOLDER = Path(__file__).parent.parent / "histories"
FILES = sorted(FOLDER.glob("*/*.jsonl.gz"))


def sagas(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        yield from map(json.loads, file)


def test_the_first_release_is_among_them() -> None:
    assert {path.name for path in FILES if path.parent.name == "0.1.0"} == {
        "demo.jsonl.gz",
        "olist.jsonl.gz",
        "stories.jsonl.gz",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name.partition('.')[0]}")
def test_s3_a_recorded_history_replays_for_ever(path: Path) -> None:
    folded = list(sagas(path))
    assert len(folded) > 50
    for told in folded:
        then = told["inputs"]
        inputs = [
            Applied(seq, each["at"], read_input(each["kind"], each["input"])) for seq, each in enumerate(then, start=1)
        ]
        beginning = Beginning(told["key"], told["run"], told["sampled"])
        for each, (applied, now) in zip(
            then, fold(Definition.from_json(told["definition"]), beginning, inputs), strict=True
        ):
            where = f"{told['story']} {told['id']} seq {applied.seq}"
            assert now.instance.to_json() == each["state"], where
            assert [write_output(output) for output in now.outputs] == each["outputs"], where
            assert (now.verdict, now.reason) == (each["verdict"], each["reason"]), where
            assert changes_text(now.changes) == each["changes"], where
