"""Metrics: what happened and how it stands, the same over OTLP and as Prometheus text; nothing names a single saga."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from choreo.events.envelope import Record, TopicPartition
from choreo.events.errors import BrokerUnreachable, ConfigurationError
from choreo.events.memory import MemoryBroker
from choreo.events.settings import Settings
from choreo.events.transport import TopicSpec
from choreo.saga import metering
from choreo.saga.metering import Measuring
from choreo.saga.running import Process
from choreo.services.measured import MeasuredTransport
from choreo.services.probes import Probes
from choreo.tracing.histograms import Histograms
from choreo.tracing.instruments import INSTRUMENTS
from choreo.tracing.meters import Meters
from choreo.tracing.metrics import exported_metrics
from tests.saga.metered import measured, scrape, shop
from tests.support.otlp import OtlpSink

_DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
_SUFFIX = {"counter": "_total", "gauge": "", "histogram": "_count"}


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "KEPT", 0.0)
    monkeypatch.setattr(metering, "_SHARE", 0)


def _prometheus(name: str) -> str:
    of = INSTRUMENTS[name]
    return name.replace(".", "_") + ("_seconds" if of.unit == "s" else "") + _SUFFIX[of.kind]


async def test_a_scrape_tells_what_became_of_events_and_sagas_and_how_long_it_took(tmp_path: Path):
    async with measured(tmp_path) as client:
        found = await scrape(client)
        head = await client.head("/metrics")
    assert (head.status_code, head.content) == (200, b"")
    assert found.of("saga_started_total", saga_type="sale") == 6
    assert found.of("saga_finished_total", saga_status="completed") == 3
    assert found.of("saga_finished_total", saga_status="compensated") == 2
    assert found.of("saga_active", saga_phase="RUNNING") == found.of("saga_active") == 1
    assert found.of("saga_conditions", saga_condition="KeyParked") == 1
    assert found.of("saga_duration_seconds_count", saga_status="completed") == 3
    assert found.of("saga_step_duration_seconds_count", saga_step="charge", saga_step_outcome="done") == 3
    assert found.of("saga_step_duration_seconds_count", saga_step_kind="compensation") == 2
    packing = {"messaging_consumer_group_name": "packing"}
    assert found.of("choreo_handled_messages_total", choreo_outcome="dead", **packing) == 1
    assert found.of("choreo_handler_retries_total", **packing) == 1
    assert found.of("choreo_dead_letters_total", **packing) == 1
    assert found.of("choreo_handler_breaker_open", choreo_handler="pack") == 0
    assert found.of("choreo_parked_messages", messaging_consumer_group_name="mail") == 1
    assert found.of("choreo_parked_messages", messaging_consumer_group_name="choreo.coordinator") == 1
    assert found.of("messaging_process_duration_seconds_count", choreo_handler="pack", error_type="OSError") == 1
    assert found.of("messaging_process_duration_seconds_count", choreo_handler="pack", error_type="") == 5
    assert found.of("messaging_client_consumed_messages_total", **packing, messaging_destination_name="orders") == 6
    ends = {"messaging_destination_name": "choreo.outcomes"}
    refused = found.of("messaging_client_sent_messages_total", error_type="BrokerUnreachable", **ends)
    assert refused >= 1
    assert found.of("messaging_client_sent_messages_total", **ends) == 5 + refused
    assert found.of("choreo_timers_held") == 0
    # The buckets of a histogram grow, and the last one holds all.
    buckets = [each for each in found.samples if each.name == "saga_duration_seconds_bucket"]
    done = [each.value for each in buckets if each.labels["saga_status"] == "completed"]
    assert done == sorted(done)
    assert done[-1] == 3


async def test_every_instrument_that_there_is_shows_up_and_none_names_a_saga_or_an_event(tmp_path: Path):
    async with measured(tmp_path) as client:
        found = await scrape(client)
    names = {each.name for each in found.samples}
    # Of `saga relay` and of `saga serve`.
    elsewhere = {"choreo.outbox.published", "http.server.request.duration", "choreo.web.streams"}
    assert {_prometheus(name) for name in INSTRUMENTS.keys() - elsewhere} <= names
    ours = {name for each in INSTRUMENTS for name in [_prometheus(each).removesuffix("_count")]}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in names if name != "target_info"} <= ours
    known = {attribute.replace(".", "_") for each in INSTRUMENTS.values() for attribute in each.attributes}
    labels = {label for each in found.samples if each.name != "target_info" for label in each.labels}
    assert labels <= known | {"le"}
    assert "saga_id" not in found.text
    assert "sale/" not in found.text


async def test_the_same_goes_out_by_otlp_durations_included(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with OtlpSink() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{sink.url}/v1/metrics")
        async with measured(tmp_path, os.environ) as client:
            await scrape(client)
        assert {"saga.duration", "saga.step.duration", "messaging.process.duration"} <= sink.metrics
        assert {"saga.finished", "saga.active", "choreo.consumer.lag", "choreo.handler.retries"} <= sink.metrics
        assert sink.metrics <= INSTRUMENTS.keys()


async def test_an_applications_own_provider_gets_them_where_it_has_one(tmp_path: Path):
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    async with MemoryBroker() as broker:
        meters = Meters(provider.get_meter("application"))
        async with Process(shop(), broker, Settings(home=tmp_path), create_topics=True, meters=meters) as process:
            await process.measure()
            meters.recorder("saga.duration", {"saga.type": "sale"}).record(2.0)
            data = reader.get_metrics_data()
    provider.shutdown()
    assert data is not None
    metrics = {each.name: each for each in data.resource_metrics[0].scope_metrics[0].metrics}
    assert metrics["choreo.timers.held"].data.data_points[0].value == 0
    assert metrics["saga.duration"].data.data_points[0].explicit_bounds == INSTRUMENTS["saga.duration"].bounds


async def test_who_measures_for_itself_is_left_alone_when_its_process_ends():
    provider = MeterProvider([reader := InMemoryMetricReader()], shutdown_on_exit=False)
    measuring = Measuring(Meters(provider.get_meter("application")), lasting=True)
    async with MemoryBroker() as broker:
        transport = measuring.transport(broker)
        await transport.create_topics([TopicSpec("orders", 1)])
        consumer = await transport.subscribe("shop", ["orders"])
        await consumer.poll(most=1, timeout=0.1)
        await measuring.measure()
        assert reader.get_metrics_data() is not None
        await measuring.close()
        assert reader.get_metrics_data() is None
    provider.shutdown()


async def test_lag_is_told_in_records_and_in_the_age_of_the_oldest_that_is_not_finished():
    provider = MeterProvider([reader := InMemoryMetricReader()], shutdown_on_exit=False)
    now = [1_000_000_000_000]
    async with MemoryBroker() as broker:
        transport = MeasuredTransport(broker, Meters(provider.get_meter("test")), clock=lambda: now[0])
        await transport.create_topics([TopicSpec("orders", 1)])
        consumer = await transport.subscribe("shop", ["orders"])
        place = TopicPartition("orders", 0)

        async def behind() -> tuple[float, float]:
            await transport.measure()
            data = reader.get_metrics_data()
            assert data is not None
            found = {m.name: m.data.data_points[0].value for m in data.resource_metrics[0].scope_metrics[0].metrics}
            return found["choreo.consumer.lag"], found["choreo.consumer.lag.time"]

        await consumer.poll(most=10, timeout=0.1)
        assert await behind() == (0, 0)
        sent = [Record("orders", b"k", b"v", (), now[0] // 1_000 + number * 1_000) for number in range(3)]
        await transport.send(sent)
        now[0] += 10_000_000
        assert await behind() == (3, 10)  # not read yet: since then at most
        first = await consumer.poll(most=1, timeout=1)
        assert [each.offset for each in first] == [0]
        await consumer.poll(most=10, timeout=1)
        assert await behind() == (3, 10)
        await consumer.commit({place: 1})
        assert await behind() == (2, 9)
        await consumer.commit({place: 3})
        assert await behind() == (0, 0)
        now[0] += 3_600_000_000
        assert await behind() == (0, 0)
        await transport.send(sent[:1])
        now[0] += 2_000_000
        assert await behind() == (1, 2)  # an idle hour makes nobody late
    provider.shutdown()


async def test_what_could_not_be_sent_is_counted_by_its_error():
    provider = MeterProvider([reader := InMemoryMetricReader()], shutdown_on_exit=False)
    async with MemoryBroker() as broker:

        async def refuse(records: object) -> None:
            raise BrokerUnreachable("no broker")

        broker.send = refuse  # type: ignore[method-assign]
        transport = MeasuredTransport(broker, Meters(provider.get_meter("test")))
        with pytest.raises(BrokerUnreachable):
            await transport.send([Record("orders", b"k", b"v", (), None)] * 2)
    data = reader.get_metrics_data()
    provider.shutdown()
    assert data is not None
    (sent,) = data.resource_metrics[0].scope_metrics[0].metrics
    (point,) = sent.data.data_points
    assert (sent.name, point.value) == ("messaging.client.sent.messages", 2)
    assert point.attributes is not None
    assert point.attributes["error.type"] == "BrokerUnreachable"


def test_without_an_endpoint_or_a_scrape_nothing_is_measured():
    for environ, scraped in (({}, False), ({"OTEL_SDK_DISABLED": "true"}, True)):
        with exported_metrics("shop", environ, scraped=scraped) as metrics:
            assert metrics is None
    with (
        pytest.raises(ConfigurationError, match="OTLP protocol 'carrier-pigeon': write http/protobuf or grpc"),
        exported_metrics(
            "shop",
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"},
        ),
    ):
        pass


async def test_a_health_port_without_metrics_says_what_is_missing():
    async def nothing() -> list[object]:
        return []

    async with Probes("0", nothing, 0) as probes, httpx.AsyncClient(timeout=60) as client:  # type: ignore[arg-type]
        answer = await client.get(f"http://127.0.0.1:{probes.port}/metrics")
    assert answer.status_code == 404
    assert "pip install 'choreo[prometheus]'" in answer.json()["error"]


def test_counting_a_duration_costs_a_small_part_of_what_the_sdk_takes():
    provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    attributes = {"messaging.consumer.group.name": "shop", "choreo.handler": "charge"}
    own = Meters(provider.get_meter("own"), Histograms()).recorder("messaging.process.duration", attributes)
    sdk = Meters(provider.get_meter("sdk")).recorder("messaging.process.duration", attributes)
    cost = {}
    for name, recorder in (("own", own), ("sdk", sdk)):
        rounds = []
        for _ in range(5):
            began = time.process_time()
            for _ in range(2_000):
                recorder.record(0.003)
            rounds.append(time.process_time() - began)
        cost[name] = min(rounds)
    provider.shutdown()
    assert cost["own"] < cost["sdk"] / 3, cost


def test_the_documented_table_is_the_one_of_the_instruments():
    rows = re.findall(r"^\| `([a-z.]+)` \| (\w+) \| (\S+) \| (.*?) \| (.*?) \|$", _DOCS.read_text(), re.M)
    assert {
        name: (kind, unit, set(re.findall("`([a-z._]+)`", attributes))) for name, kind, unit, attributes, _ in rows
    } == {of.name: (of.kind, of.unit.strip("{}"), set(of.attributes)) for of in INSTRUMENTS.values()}
    told = {name: text for name, _, _, _, text in rows}
    assert told == {of.name: of.description for of in INSTRUMENTS.values()}
