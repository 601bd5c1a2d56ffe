"""What a real Jaeger shows: one tree per saga, whatever arrives first, twice, late or not at all."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from sqlalchemy import update

from choreo.events.catalog import catalog_topics
from choreo.events.codec import Codec, to_record
from choreo.events.database import Database
from choreo.events.envelope import Envelope, Record
from choreo.events.ids import new_id
from choreo.events.local import LocalBroker
from choreo.events.registry import EmbeddedRegistry
from choreo.events.settings import load_settings
from choreo.events.transport import TopicSpec
from choreo.saga.tables import saga as saga_table
from choreo.saga.words import Phase
from choreo.tracing.export import open_tracing
from choreo.tracing.ids import trace_id
from choreo.tracing.tree import LinkRow
from tests.saga.stage import EVENTS, TOPICS, Declined, Placed, Release, Released, Reserved, Stage
from tests.saga.traced import GOLDEN, ORIGIN, inventory_service, payment_service, run_order
from tests.support.cli import environment, saga
from tests.support.jaeger import JaegerServer
from tests.support.otlp import outline

pytestmark = pytest.mark.jaeger
ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "tracing.md"
UNSAMPLED = ORIGIN[:-2] + "00"


@pytest.fixture(autouse=True)
def otel(monkeypatch: pytest.MonkeyPatch, jaeger: JaegerServer) -> pytest.MonkeyPatch:
    """The environment of a program that exports to Jaeger."""
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", jaeger.otlp)
    return monkeypatch


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A broker and a store of a deployment of its own, so that its traces are its own too."""
    async with _stage(tmp_path) as made:
        yield made


@asynccontextmanager
async def _stage(folder: Path) -> AsyncIterator[Stage]:
    settings = load_settings(broker="memory:", namespace=uuid4().hex)
    async with Stage(f"sqlite:{folder / 'saga.db'}", live=True, settings=settings) as made:
        yield made


# ---- one tree -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_a_compensated_saga_is_one_tree(
    stage: Stage, jaeger: JaegerServer, otel: pytest.MonkeyPatch, protocol: str
) -> None:
    if protocol == "grpc":
        otel.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", jaeger.otlp_grpc)
        otel.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    await run_order(stage)
    namespace = stage.settings.namespace
    wanted = trace_id(namespace, "order/4711")
    assert jaeger.outline(wanted) == GOLDEN
    spans = {span.name: span for span in jaeger.spans(wanted)}
    root = spans["saga order"]
    assert root.description == "compensated after charge"
    assert root.attributes["saga.status"] == "compensated"
    assert root.links == (LinkRow("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", {"saga.link": "origin"}),), (
        "it leads back to the request"
    )
    assert spans["step charge"].links[0].trace_id == f"{wanted:032x}", "its trigger is a message of this trace"
    assert spans["process inventory"].parent_id == spans["step charge"].span_id
    assert all(span.attributes["saga.id"] == "order/4711" for span in spans.values())
    for span in spans.values():
        assert root.start <= span.start <= span.end


async def test_the_trace_of_the_request_leads_to_the_saga(stage: Stage, jaeger: JaegerServer) -> None:
    web = open_tracing(stage.settings, "web")
    sent = web.send("orders", "e-1")
    await run_order(stage, traceparent=sent.traceparent)
    sent.end()
    assert await web.aclose()
    assert sent.traceparent is not None
    origin = sent.traceparent.split("-")[1]
    assert jaeger.outline(origin) == ["send orders [web]", "  saga start order [choreo.coordinator] -> saga"]
    anchor = next(span for span in jaeger.spans(origin) if span.service != "web")
    wanted = f"{trace_id(stage.settings.namespace, 'order/4711'):032x}"
    assert anchor.attributes["saga.trace_id"] == anchor.links[0].trace_id == wanted
    assert anchor.start == anchor.end
    assert jaeger.outline(wanted) == GOLDEN


class Kept(SpanExporter):
    """Keeps what every part of a program exports."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans.extend(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Each part ends in its own time."""


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> list[ReadableSpan]:
    """Every span of one declined order."""
    exporter = Kept()

    async def run() -> str:
        async with _stage(tmp_path_factory.mktemp("recorded")) as stage:
            await run_order(stage, extra=[exporter])
            return stage.settings.namespace

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
        wanted = trace_id(asyncio.run(run()), "order/4711")
    found = [span for span in exporter.spans if span.get_span_context().trace_id == wanted]
    assert len(found) == len(GOLDEN)
    return found


@hypothesis_settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_it_is_the_same_tree_whatever_arrives_first_or_twice(
    data: st.DataObject, spans: list[ReadableSpan], jaeger: JaegerServer
) -> None:
    twice = data.draw(st.lists(st.sampled_from(range(len(spans))), max_size=len(spans)))
    order = data.draw(st.permutations([*range(len(spans)), *twice]))
    fresh = uuid4().bytes
    with httpx.Client(base_url=jaeger.otlp, trust_env=False, timeout=60) as client:
        for number in order:
            request = encode_spans([spans[number]])
            request.resource_spans[0].scope_spans[0].spans[0].trace_id = fresh
            body = request.SerializeToString()
            client.post(
                "/v1/traces", content=body, headers={"Content-Type": "application/x-protobuf"}
            ).raise_for_status()
    assert len(jaeger.spans(fresh.hex())) == len(GOLDEN), "what came twice is shown once"
    assert jaeger.outline(fresh.hex()) == GOLDEN


# ---- what is missing ----------------------------------------------------------------------------------------------


async def test_an_unsampled_saga_that_fails_is_shown_with_its_steps(
    stage: Stage, jaeger: JaegerServer, otel: pytest.MonkeyPatch
) -> None:
    otel.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    await run_order(stage, traceparent=UNSAMPLED)
    wanted = trace_id(stage.settings.namespace, "order/4711")
    assert jaeger.outline(wanted) == [line for line in GOLDEN if "[choreo.coordinator]" in line]


async def test_an_unsampled_saga_that_succeeds_is_not(
    stage: Stage, jaeger: JaegerServer, otel: pytest.MonkeyPatch
) -> None:
    otel.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    services = [inventory_service(stage.folder), payment_service(stage.folder, declines=False)]
    await run_order(stage, traceparent=UNSAMPLED, services=services, ends=Phase.COMPLETED)
    assert jaeger.spans(trace_id(stage.settings.namespace, "order/4711")) == []


async def test_a_service_that_knows_no_tracing_does_not_split_the_saga(stage: Stage, jaeger: JaegerServer) -> None:
    """Its events carry nothing but what CloudEvents demand; the key says which saga they belong to."""
    legacy = asyncio.create_task(_legacy_inventory(stage))
    try:
        await run_order(stage, services=[payment_service(stage.folder)])
    finally:
        legacy.cancel()
        await asyncio.gather(legacy, return_exceptions=True)
    assert jaeger.outline(trace_id(stage.settings.namespace, "order/4711")) == [
        "saga order [choreo.coordinator] ERROR -> origin",
        "  saga order started [choreo.coordinator] -> origin",
        "  step reserve [choreo.coordinator] -> trigger",
        "  step charge [choreo.coordinator] ERROR",
        "    process inventory [payment]",
        "      send payments [payment]",
        "  compensate reserve [choreo.coordinator] -> trigger",
    ]


async def _legacy_inventory(stage: Stage) -> None:
    consumer = await stage.broker.subscribe("legacy", ["orders", "inventory.commands"])
    try:
        while True:
            for delivery in await consumer.poll(most=10, timeout=0.05):
                order_id = (delivery.key or b"").decode()
                kind = dict(delivery.headers)["ce_type"]
                if kind == Placed.spec().type.encode():
                    await stage.publish(Reserved(order_id=order_id))
                elif kind == Release.spec().type.encode():
                    await stage.publish(Released(order_id=order_id))
    finally:
        await consumer.close()


# ---- a coordinator that is killed ---------------------------------------------------------------------------------

COUNT = 50
POINTS = ("after_commit:2", "before_commit:5", "after_commit:1", "after_commit:4")
TREE = [
    "saga past [choreo.coordinator] ERROR",
    "  saga past started [choreo.coordinator]",
    "  step reserve [choreo.coordinator]",
    "  step charge [choreo.coordinator] ERROR",
]


@pytest.mark.slow
async def test_a_killed_coordinator_leaves_no_hole_and_no_second_version(tmp_path: Path, jaeger: JaegerServer) -> None:
    """Killed between a commit and its spans, and between its spans and their export."""
    namespace = uuid4().hex
    number = 0
    async with LocalBroker(tmp_path / "broker.db") as broker:
        names = (*TOPICS, *(f"{name}.dlq" for name in TOPICS))
        await broker.create_topics([*(TopicSpec(name, 2) for name in names), *catalog_topics()])
        codec = Codec(EmbeddedRegistry(broker))
        await codec.prepare(EVENTS)
        for point in POINTS:
            records: list[Record] = []
            for n in range(number, number + COUNT):
                for event in (Placed(order_id=str(n)), Reserved(order_id=str(n)), Declined(order_id=str(n))):
                    made = Envelope(new_id(), event.spec().type, "test", 1_700_000_000_000_000 + len(records), str(n))
                    records.append(to_record(event, made, codec))
            number += COUNT
            await broker.send(records)
            assert await _coordinate(tmp_path, namespace, point) == -signal.SIGKILL, f"{point} was not reached"
        assert await _coordinate(tmp_path, namespace, None) == 0
    wanted = [trace_id(namespace, f"past/{n}") for n in range(number)]
    first = {}
    for each in wanted:
        assert jaeger.outline(each) == TREE
        first[each] = {span.span_id: span for span in jaeger.spans(each)}
        assert len(first[each]) == len(jaeger.spans(each)), "no span has two versions"

    database = await Database.open(f"sqlite:{tmp_path / 'saga.db'}")
    await database.write(lambda connection: connection.execute(update(saga_table).values(traced=False)))
    await database.close()
    assert await _coordinate(tmp_path, namespace, None) == 0
    for each in wanted:
        again = jaeger.spans(each)
        assert {span.span_id: span for span in again} == first[each], "emitted again, from the store alone: the same"
        assert len(again) == len(TREE)


async def _coordinate(folder: Path, namespace: str, crash_at: str | None) -> int:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "CHOREO_NAMESPACE": namespace}
    variables.pop("CHOREO_CRASH_AT", None)
    if crash_at is not None:
        variables["CHOREO_CRASH_AT"] = f"coordinator.{crash_at}"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.saga.crash_program",
        str(folder / "broker.db"),
        f"sqlite:{folder / 'saga.db'}",
        env=variables,
        cwd=folder,
    )
    try:
        async with asyncio.timeout(120):
            return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# ---- as people look at it -----------------------------------------------------------------------------------------


class Demo(NamedTuple):
    """What was typed: in which environment and folder, and what the last command printed."""

    env: dict[str, str]
    folder: Path
    output: str


@pytest.fixture(scope="module")
def demo(jaeger: JaegerServer, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A demo that has sent its spans to Jaeger, by the commands of the documentation."""
    folder = tmp_path_factory.mktemp("home")
    _, typed = re.findall(r"```\n(.+?)```", DOCS.read_text().partition("## In Jaeger")[2], re.DOTALL)[:2]
    exported, *commands = typed.splitlines()
    env = environment(namespace=uuid4().hex)
    for address, real in (("http://127.0.0.1:4318", jaeger.otlp), ("http://127.0.0.1:16686", jaeger.url)):
        exported = exported.replace(address, real)
    env |= dict(word.split("=", 1) for word in exported.removeprefix("export ").split())
    output = ""
    for command in commands:
        done = saga(*command.split()[1:], env=env, cwd=folder)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        output = done.stdout
    return Demo(env, folder, output)


@pytest.mark.slow
def test_every_saga_of_the_demo_has_one_root_and_no_orphan(demo: Demo, jaeger: JaegerServer) -> None:
    done = saga("list", "--all", "--home", ".choreo/demo", "-o", "json", env=demo.env, cwd=demo.folder)
    listed = json.loads(done.stdout)
    assert len(listed) == 30
    for each in listed:
        trace = trace_id(demo.env["CHOREO_NAMESPACE"], f"fulfilment/{each['key']}")
        nodes = jaeger.tree(trace)
        assert [node.name for node in nodes if node.depth == 0] == ["saga fulfilment"], outline(nodes)
        assert len(nodes) == len(jaeger.spans(trace)), "no span has two versions"
        assert nodes[0].span.attributes["saga.status"] == each["phase"].lower()
        assert (nodes[0].status == "ERROR") == (each["phase"] != "COMPLETED")


def test_what_the_documentation_types_ends_with_the_address_of_the_page(demo: Demo, jaeger: JaegerServer) -> None:
    address = demo.output.split()[-1]
    page, _, trace = address.rpartition("/trace/")
    assert page == jaeger.url
    assert httpx.get(address, trust_env=False, timeout=60).status_code == 200
    assert jaeger.outline(trace)[0].startswith("saga fulfilment ")
