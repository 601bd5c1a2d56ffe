"""Dashboards and alert rules ask only for what there is: each metric and label of each query is at a real scrape."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser
import pytest
import yaml

from choreo.saga import metering
from tests.saga.metered import measured, scrape
from tests.support.commands import COMPOSE_FILE, compose_commands

FOLDER = COMPOSE_FILE.parent
RULES = FOLDER / "prometheus" / "rules.yaml"
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
OF_PROMETHEUS = {"up": {"job", "instance"}}
"""What Prometheus itself knows of each target; every series has these labels too."""


class Query(NamedTuple):
    """One query, where it stands, and the labels that its text shows."""

    place: str
    expr: str
    shown: frozenset[str]


def _queries() -> Iterator[Query]:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            texts = " ".join(rule["annotations"].values())
            yield Query(f"rule {rule['alert']}", rule["expr"], frozenset(re.findall(r"\$labels\.(\w+)", texts)))
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                shown = frozenset(re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"]))
                yield Query(f"{path.stem}: {panel['title']}", target["expr"], shown)


QUERIES = list(_queries())


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of every metric that services and a coordinator give at a scrape."""

    async def look() -> dict[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        async with measured(tmp_path_factory.mktemp("scraped")) as client:
            for sample in (await scrape(client)).samples:
                found[sample.name] |= sample.labels.keys() | OF_PROMETHEUS["up"]
        return dict(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metering, "KEPT", 0.0)
        patch.setattr(metering, "_SHARE", 0)
        return OF_PROMETHEUS | asyncio.run(look())


def _parts(node: Any) -> list[Any]:
    """Every expression within an expression."""
    found: list[Any] = []
    promql_parser.walk(node, found.append)
    return found


def _selectors(node: Any) -> list[Any]:
    return [each for each in _parts(node) if isinstance(each, promql_parser.VectorSelector)]


def _parsed(query: Query) -> Any:
    return promql_parser.parse(query.expr.replace("$__rate_interval", "5m"))


@pytest.mark.parametrize("query", QUERIES, ids=[query.place for query in QUERIES])
def test_every_metric_and_label_of_a_query_is_there(query: Query, known: dict[str, set[str]]) -> None:
    root = _parsed(query)
    selectors = _selectors(root)
    assert selectors, query.expr
    for selector in selectors:
        assert selector.name in known, f"there is no metric {selector.name}"
        for matcher in selector.matchers.matchers:
            assert matcher.name in known[selector.name], f"{selector.name} has no label {matcher.name}"
    for part in _parts(root):
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
            for label in part.modifier.labels:
                for selector in _selectors(part.expr):
                    assert label in known[selector.name], f"{selector.name} has no label {label}"


@pytest.mark.parametrize("query", QUERIES, ids=[query.place for query in QUERIES])
def test_what_a_text_shows_is_left_in_the_result(query: Query, known: dict[str, set[str]]) -> None:
    root = _parsed(query)
    grouped = [
        set(part.modifier.labels) if part.modifier is not None else set[str]()
        for part in _parts(root)
        if isinstance(part, promql_parser.AggregateExpr)
    ]
    left = grouped[0] if grouped else known[_selectors(root)[0].name]
    assert query.shown <= left, f"{query.place} shows {sorted(query.shown - left)}, which its query drops"


def test_a_query_that_is_wrong_is_found(known: dict[str, set[str]]) -> None:
    for wrong in ("sum(saga_activ)", 'saga_active{saga_phas="x"}', "sum by (saga_tye) (rate(saga_finished_total[5m]))"):
        with pytest.raises(AssertionError):
            test_every_metric_and_label_of_a_query_is_there(Query("wrong", wrong, frozenset()), known)
    with pytest.raises(AssertionError):
        test_what_a_text_shows_is_left_in_the_result(
            Query("wrong", "max by (saga_type) (saga_active)", frozenset({"saga_phase"})), known
        )


def test_every_metric_that_tells_of_trouble_has_a_rule() -> None:
    asked = {
        selector.name for query in QUERIES if query.place.startswith("rule") for selector in _selectors(_parsed(query))
    }
    assert {
        "saga_active",
        "saga_conditions",
        "choreo_timers_held",
        "choreo_undo_stopped",
        "choreo_consumer_lag_time_seconds",
        "choreo_outbox_lag_seconds",
        "choreo_dead_letters_total",
        "choreo_parked_messages",
        "choreo_handler_breaker_open",
        "choreo_spans_dropped_total",
        "up",
    } <= asked


def test_each_rule_says_what_to_do() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 10
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert {"summary", "remedy"} == rule["annotations"].keys()


def test_prometheus_scrapes_every_service_of_ours_and_grafana_shows_the_dashboards() -> None:
    services = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    port = int(services["coordinator"]["environment"]["CHOREO_HEALTH"].rpartition(":")[2])
    [job] = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    [found] = job["dns_sd_configs"]
    scraped = (["saga", "run"], ["saga", "serve"], ["saga", "relay"])
    running = {name for name, argv in compose_commands().items() if argv[:2] in scraped}
    assert (set(found["names"]), found["port"]) == (running, port)

    mounted = {Path(each.split(":")[0]).name: each.split(":")[1] for each in services["grafana"]["volumes"]}
    provisioning = FOLDER / "grafana" / "provisioning"
    [provider] = yaml.safe_load((provisioning / "dashboards" / "choreo.yaml").read_text())["providers"]
    assert provider["options"]["path"] == mounted["dashboards"]
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    used = {panel["datasource"]["uid"] for path in DASHBOARDS for panel in json.loads(path.read_text())["panels"]}
    assert used == {source["uid"]}
    [rules] = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yaml").read_text())["rule_files"]
    assert f"./prometheus/rules.yaml:{rules}:ro" in services["prometheus"]["volumes"]
