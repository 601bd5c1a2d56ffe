"""BACKWARD: what a new schema must be able to read, and how the problem is told."""

from __future__ import annotations

from typing import Any

import pytest

from choreo.events.compatibility import check, check_backward, check_forward


def record(*fields: tuple[Any, ...], name: str = "R", **more: Any) -> dict[str, Any]:
    made = [{"name": each[0], "type": each[1], **({"default": each[2]} if len(each) > 2 else {})} for each in fields]
    return {"type": "record", "name": name, "fields": made, **more}


def decimal(precision: int, scale: int) -> dict[str, Any]:
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


MICROS = {"type": "long", "logicalType": "timestamp-micros"}
UUID = {"type": "string", "logicalType": "uuid"}
LINE = record(("sku", "string"), name="Line")
TREE = record(("children", {"type": "array", "items": "Tree"}), name="Tree")


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (record(("a", "long")), record(("a", "long"))),
        (record(("a", "long")), record(("a", "long"), ("gone", "string"))),
        (record(("a", "long"), ("b", "string", "")), record(("a", "long"))),
        (record(("a", "double")), record(("a", "int"))),
        (record(("a", "bytes")), record(("a", "string"))),
        (record(("a", ["null", "string"])), record(("a", "string"))),
        (record(("a", ["null", "string", "long"])), record(("a", ["string", "null"]))),
        (record(("a", "long")), record(("a", ["int", "long"]))),
        (record(("a", enum("X", "Y"))), record(("a", enum("X")))),
        (record(("a", enum("X", default="X"))), record(("a", enum("X", "Y")))),
        (record(("a", decimal(12, 2))), record(("a", decimal(10, 2)))),
        (record(("a", UUID)), record(("a", "string"))),
        (record(("a", {"type": "array", "items": ["null", LINE]})), record(("a", {"type": "array", "items": LINE}))),
        (record(("a", LINE), ("b", "Line")), record(("a", LINE), ("b", "Line"))),
        (record(("a", "long"), name="New", aliases=["R"]), record(("a", "long"))),
        (record(("a", "long"), name="x.R"), record(("a", "long"), name="y.R")),
        (record(("a", LINE), ("b", "s.Line"), namespace="s"), record(("a", LINE), ("b", "Line"))),
        (TREE, TREE),
    ],
)
def test_what_may_change(new: dict[str, Any], old: dict[str, Any]) -> None:
    assert check_backward(new, old) == []


@pytest.mark.parametrize(
    ("new", "old", "problem"),
    [
        (
            record(("a", "long"), ("b", "string")),
            record(("a", "long")),
            "R.b is new and has no default (rule: a new field needs one, to read older events)",
        ),
        (
            record(("a", "int")),
            record(("a", "long")),
            "R.a was long and is now int (rule: a type stays, or widens as int, long, float, double; use a new field)",
        ),
        (record(("a", "string")), record(("a", "long")), "R.a was long and is now string (rule: a type stays"),
        (record(("a", "string")), record(("a", ["null", "string"])), "R.a was null and is now string"),
        (record(("a", MICROS)), record(("a", "long")), "R.a was long and is now timestamp-micros"),
        (record(("a", "long")), record(("a", MICROS)), "R.a was timestamp-micros and is now long"),
        (record(("a", "double")), record(("a", MICROS)), "R.a was timestamp-micros and is now double"),
        (record(("a", "string")), record(("a", UUID)), "R.a was uuid and is now string"),
        (
            record(("a", ["null", "long"])),
            record(("a", ["null", "string"])),
            "R.a was string, which is no branch of it",
        ),
        (record(("a", decimal(10, 3))), record(("a", decimal(10, 2))), "R.a had 2 decimal places and has now 3"),
        (record(("a", decimal(8, 2))), record(("a", decimal(10, 2))), "R.a had 10 digits and has now 8"),
        (record(("a", enum("X"))), record(("a", enum("X", "Y"))), "R.a lacks Y (rule: symbols are added"),
        (record(("a", "long"), name="S"), record(("a", "long")), "S was R and is now S (rule: a name stays"),
        (
            record(("a", {"type": "array", "items": record(("sku", "long"), name="Line")})),
            record(("a", {"type": "array", "items": LINE})),
            "R.a[].sku was string and is now long",
        ),
        (
            record(("a", ["null", record(("sku", "string"), ("n", "int"), name="Line")])),
            record(("a", ["null", LINE])),
            "R.a.n is new and has no default",
        ),
        (
            record(("a", {"type": "map", "values": "int"})),
            record(("a", {"type": "map", "values": "string"})),
            "R.a[] was string and is now int",
        ),
        (
            record(("a", {"type": "fixed", "name": "F", "size": 4})),
            record(("a", {"type": "fixed", "name": "F", "size": 3})),
            "R.a had 3 bytes and has now 4",
        ),
    ],
)
def test_what_breaks_readers_is_named_with_its_rule(new: dict[str, Any], old: dict[str, Any], problem: str) -> None:
    problems = check_backward(new, old)
    assert len(problems) == 1 and problems[0].startswith(problem)


def test_every_problem_is_told() -> None:
    new = record(("a", "string"), ("b", "string"), ("c", "long"))
    old = record(("a", "long"), ("c", "long"))
    assert [problem.split(" ")[0] for problem in check_backward(new, old)] == ["R.a", "R.b"]


@pytest.mark.parametrize(
    ("new", "old", "problem"),
    [
        (record(("a", "long")), record(("a", "long"), ("b", "string")), "R.b is gone and had no default (rule: only"),
        (record(("a", "long")), record(("a", "int")), "R.a was int and is now long (rule: a type stays, as older"),
        (record(("a", ["null", "string"])), record(("a", "string")), "R.a was string and is now null"),
        (
            record(("a", ["int", "null"])),
            record(("a", ["null", "string"])),
            "R.a may now be int (rule: no types are added",
        ),
        (record(("a", enum("X", "Y"))), record(("a", enum("X"))), "R.a has Y added (rule: none are added"),
        (record(("a", decimal(12, 2))), record(("a", decimal(10, 2))), "R.a had 10 digits and has now 12 (rule: a"),
        (record(("a", decimal(9, 3))), record(("a", decimal(9, 2))), "R.a had 2 decimal places and has now 3"),
        (record(name="S"), record(), "R was R and is now S (rule: a name stays"),
        (
            record(("a", {"type": "fixed", "name": "F", "size": 4})),
            record(("a", {"type": "fixed", "name": "F", "size": 3})),
            "R.a had 3 bytes and has now 4",
        ),
    ],
)
def test_forward_tells_it_from_the_older_classes_side(new: dict[str, Any], old: dict[str, Any], problem: str) -> None:
    (found,) = check_forward(new, old)
    assert found.startswith(problem)


def test_a_level_says_which_versions_are_looked_at_and_from_which_side() -> None:
    first, second = record(("a", "string")), record(("b", "string", ""))
    third = record(("a", "long", 0), ("b", "string", ""))
    assert check("NONE", third, [first, second]) == []
    assert check("BACKWARD", third, [first, second]) == []
    assert check("FORWARD", third, [first, second]) == []
    assert check("FULL", second, [first]) == check("FORWARD", second, [first]) != []
    for level in ("BACKWARD_TRANSITIVE", "FULL_TRANSITIVE"):
        assert check(level, third, [first, second])[0].startswith("R.a was string and is now long (rule: a type stays,")  # type: ignore[arg-type]
    assert len(check("FULL_TRANSITIVE", third, [first, first, second])) == 2  # each is told once
    assert check("FULL_TRANSITIVE", third, []) == []


def test_what_travels_encrypted_is_compared_by_what_is_within() -> None:
    """The bytes of a closed field are the same whatever is within; a reader opens them by the writer's inner schema."""

    def closed(inner: Any) -> dict[str, Any]:
        return {"type": "bytes", "encrypted": inner}

    def whole(inner: dict[str, Any]) -> dict[str, Any]:
        field = {"name": "sealed", "type": closed(inner), "default": ""}
        return {"type": "record", "name": inner["name"], "fields": [field], "encrypted": "sealed"}

    one, other = record(("a", "long"), ("b", "long")), record(("a", "long"), ("b", "string"))
    assert check_backward(record(("a", closed("long"))), record(("a", closed("long")))) == []
    assert check_backward(record(("a", closed("long"))), record(("a", "long"))) == []
    for new, old in (
        (record(("b", closed("string"))), record(("b", closed("long")))),
        (record(("b", closed("string"))), record(("b", "long"))),
        (whole(other), whole(one)),
        (whole(other), one),
    ):
        (problem,) = check_backward(new, old)
        assert problem.startswith("R.b was long and is now string (rule: a type stays")
    assert (
        check_backward(whole(one), one)
        == check_backward(one, whole(one))
        == check_backward(whole(one), whole(one))
        == []
    )
    (problem,) = check_backward(whole(record(("a", "long"), ("c", LINE))), whole(record(("a", "long"))))
    assert problem.startswith("R.c is new and has no default")
