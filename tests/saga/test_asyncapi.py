"""`saga asyncapi`: held against the schema that AsyncAPI's makers publish."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from choreo import Event, Secret, Service
from choreo.saga.cli import exits
from choreo.services.asyncapi import document, of_service
from choreo.services.retry import Retry
from tests.support.asyncapi import asyncapi_validator
from tests.support.console import Console

DEMO = ("choreo.saga.demo.services", "choreo.saga.demo.saga")


class Address(Event):
    """A base without a topic stands in no document."""

    street: str = ""


class Odd(Address, topic="odd.topic", key="id", type="com.shop/odd:1"):
    """What a shop says.

    In two paragraphs.
    """

    id: str


class Plain(Event, topic="plain", key="id", format="json"):
    id: str
    card: Secret[str]
    more: list[dict[str, int]] = []


class Hidden(Plain, encrypted="secrets"):
    pass


class Dark(Plain, encrypted=True):
    pass


odd = Service("odd", store=None)


@odd.on(Odd, Plain, Hidden, retry=Retry(attempts=2))
async def answer(event: Odd | Plain | Hidden) -> Dark | Odd | None:
    """Answer it.

    Slowly.
    """
    return None


def _valid(told: dict[str, Any]) -> dict[str, Any]:
    problems = sorted(asyncapi_validator().iter_errors(told), key=lambda each: list(each.path))
    assert [f"{list(each.path)}: {each.message[:300]}" for each in problems] == []
    for reference in _references(told):
        found: Any = told
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    return told


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


@pytest.fixture
def saga(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    for name in [name for name in os.environ if name.startswith(("CHOREO_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CHOREO_HOME", str(tmp_path))
    return Console(capsys, tmp_path)


def test_the_shop_is_a_valid_document_in_json_and_yaml(saga: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHOREO_BROKER", "kafka://broker.example:9093,other:9093")
    monkeypatch.setenv("CHOREO_KAFKA_SECURITY", "SASL_SSL")
    monkeypatch.setenv("CHOREO_TOPIC_PREFIX", "dev.")
    told = _valid(saga("asyncapi", *DEMO, "--title", "shop").json)
    assert told["info"] == {"title": "shop", "version": "1.0.0"}
    assert told["servers"]["broker"]["host"] == "broker.example:9093"
    assert told["servers"]["broker"]["protocol"] == "kafka-secure"
    orders = told["channels"]["orders"]
    assert (orders["address"], orders["bindings"]["kafka"]["topic"]) == ("dev.orders", "dev.orders")
    assert {"OrderPlaced", "OrderFulfilled"} <= set(orders["messages"])
    operation = told["operations"]["inventory.reserve.receive"]
    assert operation["bindings"]["kafka"]["groupId"]["enum"] == ["dev.inventory"]
    assert told["operations"]["fulfilment.reserve.send"]["messages"] == [
        {"$ref": "#/channels/inventory.commands/messages/ReleaseStock"}
    ]
    message = told["components"]["messages"]["OrderPlaced"]
    assert message["bindings"]["kafka"]["schemaIdPayloadEncoding"] == "confluent"
    assert message["payload"]["schema"]["type"] == "record"
    assert yaml.safe_load(saga("asyncapi", *DEMO, "--title", "shop", "--as", "yaml").out) == told
    file = saga.home / "shop.yaml"
    done = saga("asyncapi", *DEMO, "--title", "shop", "--out", file)
    assert "channels" in done.err and done.out == ""
    assert yaml.safe_load(file.read_text()) == told
    assert "&id" not in file.read_text()


def test_odd_names_json_and_secrets_are_told_as_they_are() -> None:
    told = _valid(document(of_service(odd), title="odd", version="2"))
    assert "servers" not in told
    assert list(asyncapi_validator().iter_errors({**told, "channels": {"plain": {"address": 7}}})), "it does look"
    message = told["components"]["messages"]["com.shop_odd_1"]
    assert (message["name"], message["summary"]) == ("com.shop/odd:1", "What a shop says.")
    assert set(told["operations"]) == {
        f"odd.answer.{action}.{topic}" for action in ("receive", "send") for topic in ("odd.topic", "plain")
    }
    assert told["operations"]["odd.answer.send.plain"]["summary"] == "Answer it."
    plain = told["components"]["messages"]["Plain"]
    assert (plain["contentType"], plain["x-secret"]) == ("application/json", ["card"])
    assert plain["payload"]["properties"]["card"] == {"title": "Card", "type": "string"}
    hidden = told["components"]["messages"]["Hidden"]
    assert hidden["payload"]["properties"]["card"]["required"] == ["$encrypted"]
    assert told["components"]["messages"]["Dark"]["payload"]["required"] == ["$encrypted"]


def test_headers_are_those_of_the_contract() -> None:
    from choreo.events.envelope import RESERVED

    told = document(of_service(odd), title="odd", version="2")
    headers = cast(dict[str, Any], told["components"]["schemas"]["EventHeaders"])
    assert set(headers["properties"]) == RESERVED


def test_errors_are_one_line(saga: Console) -> None:
    assert saga("asyncapi").code == exits.USAGE
    assert saga("asyncapi", "json").code == exits.USAGE
    done = saga("asyncapi", *DEMO, "--out", saga.home / "no" / "x.json")
    assert (done.code, len(done.err.splitlines())) == (exits.USAGE, 1)
    assert json.loads(saga("asyncapi", *DEMO).out)["asyncapi"] == "3.0.0"
