"""Schemas that name types of other subjects, made ones that stand by themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastavro import parse_schema

from choreo.events.confluent import ConfluentRegistry
from choreo.events.errors import DecodeError
from choreo.events.references import inline
from choreo.events.registry_access import Access
from tests.support.schema_server import SchemaServer


def record(name: str, *fields: Any, **more: Any) -> dict[str, Any]:
    made = [{"name": f"f{number}", "type": type_} for number, type_ in enumerate(fields)]
    return {"type": "record", "name": name, **more, "fields": made}


MONEY = record("Money", "long", namespace="shop")
PLAIN = record("Plain", "long")
PART = inline(record("Part", "Money", namespace="shop"), [MONEY])


@pytest.mark.parametrize(
    ("schema", "others"),
    [
        (record("a.Order", "shop.Money", "shop.Money"), [MONEY]),
        (record("Order", "Money", ["null", "Money"], namespace="shop"), [MONEY]),
        (record("shop.Order", {"type": "array", "items": "Money"}, {"type": "map", "values": "Money"}), [MONEY]),
        (record("Order", "Plain", record("Inner", "Plain")), [PLAIN]),
        (record("Order", "shop.Part", "shop.Money"), [PART, MONEY]),
        (record("Order", {"type": "enum", "name": "E", "symbols": ["A"]}, "E"), []),
        (record("Order", ["null", "Order"]), [MONEY]),
        (record("Order", {"type": "long", "logicalType": "timestamp-micros"}, "Plain"), [PLAIN]),
    ],
)  # fmt: skip
def test_each_definition_stands_once_where_its_name_stands_first(schema: Any, others: list[Any]) -> None:
    before = json.dumps([schema, others])
    whole = inline(schema, others)
    parse_schema(json.loads(json.dumps(whole)))  # it stands by itself
    for name in ("Money", "Plain", "Part"):
        text = json.dumps(whole)
        assert sum(text.count(f'"name": "{full}"') for full in (name, f"shop.{name}")) <= 1
    assert json.dumps([schema, others]) == before  # nothing of what was given is changed


def test_a_name_that_stands_for_nothing_is_told() -> None:
    with pytest.raises(DecodeError, match=r"names the type 'shop.Money', which is defined nowhere"):
        inline(record("Order", "Money", namespace="shop"), [PLAIN])


async def fetched(server: SchemaServer, answers: dict[str, Any]) -> Any:
    server.override = lambda method, path: (200, answers[path]) if path in answers else None
    registry = ConfluentRegistry(Access(url=server.url))
    try:
        return await registry.fetch(1)
    finally:
        await registry.close()


def answer(schema: Any, *named: tuple[str, int]) -> dict[str, Any]:
    references = [{"name": "x", "subject": subject, "version": version} for subject, version in named]
    return {"schema": json.dumps(schema), "references": references}


async def test_what_two_schemas_refer_to_is_asked_for_once() -> None:
    async with SchemaServer() as server:
        part = record("Part", "Money", namespace="shop")
        found = await fetched(
            server,
            {
                "/schemas/ids/1": answer(record("Order", "shop.Part", "shop.Money"), ("part", 1), ("money", 3)),
                "/subjects/part/versions/1": answer(part, ("money", 3)),
                "/subjects/money/versions/3": answer(MONEY),
            },
        )
        assert found == inline(record("Order", "shop.Part", "shop.Money"), [inline(part, [MONEY]), MONEY])
        assert [path for _, path in server.requests].count("/subjects/money/versions/3") == 1


async def test_schemas_that_refer_to_each_other_end() -> None:
    async with SchemaServer() as server:
        loop = answer(record("A", "B"), ("b", 1))
        with pytest.raises(DecodeError, match="'A', which is defined nowhere"):
            await fetched(
                server, {"/schemas/ids/1": loop, "/subjects/b/versions/1": answer(record("B", "A"), ("b", 1))}
            )


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"/schemas/ids/1": answer(record("A", "B"), ("none", 7))}, "no version 7 of none, to which a schema refers"),
        ({"/schemas/ids/1": answer(record("A", "B"), *((str(n), 1) for n in range(201)))}, "refers to more than 200"),
        (
            {"/schemas/ids/1": answer({"type": "record", "name": "A", "fields": [{}]}, ("b", 1))},
            "is not an Avro schema",
        ),
    ],
)
async def test_references_that_lead_nowhere_are_one_clear_line(answers: dict[str, Any], message: str) -> None:
    async with SchemaServer() as server:
        more = {f"/subjects/{number}/versions/1": answer(PLAIN) for number in ["b", *range(200)]}
        with pytest.raises(DecodeError, match=message):
            await fetched(server, more | answers)
