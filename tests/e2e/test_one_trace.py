"""A saga is one trace, whatever happens to it: in a sink of ours, and in a real Jaeger."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest

from choreo.events.clock import SECOND, system_clock
from choreo.events.envelope import Record
from choreo.events.memory import MemoryBroker
from choreo.events.settings import load_settings
from choreo.saga.options import Options
from choreo.tracing.ids import trace_id
from choreo.tracing.sampling import Sampling
from choreo.tracing.tree import SpanRow
from tests.saga.stage import Stage
from tests.saga.tour import TOUR, Trip, run_tour
from tests.saga.traced import GOLDEN, ORIGIN, run_order
from tests.support.otlp import OtlpSink

UNSAMPLED = ORIGIN[:-2] + "00"
COORDINATOR = "choreo.coordinator"


class Backend(Protocol):
    """Where spans go, and how they are seen there."""

    def spans(self, trace_id: int) -> list[SpanRow]: ...
    def outline(self, trace_id: int) -> list[str]: ...


@pytest.fixture(params=["sink", pytest.param("jaeger", marks=pytest.mark.jaeger)])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    if request.param == "jaeger":
        server = request.getfixturevalue("jaeger")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.otlp)
        yield server
        return
    with OtlpSink() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        yield sink


class Legacy(MemoryBroker):
    """A broker behind which something rewrites the headers of every record."""

    def __init__(self, change: Callable[[Record], Record]) -> None:
        super().__init__("")
        self._change = change

    async def send(self, records: Sequence[Record]) -> None:
        await super().send([self._change(record) for record in records])


@asynccontextmanager
async def a_stage(folder: Path, broker: MemoryBroker | None = None) -> AsyncIterator[Stage]:
    settings = load_settings(broker="memory:", namespace=uuid4().hex)
    async with Stage(
        f"sqlite:{folder / 'saga.db'}", live=True, settings=settings, broker=broker or MemoryBroker("")
    ) as made:
        yield made


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with a_stage(tmp_path) as made:
        yield made


# ---- the golden tree ----------------------------------------------------------------------------------------------


async def test_five_steps_a_retry_a_failure_and_its_compensation_are_one_tree(stage: Stage, backend: Backend) -> None:
    await run_tour(stage, traceparent=ORIGIN)
    wanted = trace_id(stage.settings.namespace, "tour/4711")
    assert len(TOUR) == 26
    assert backend.outline(wanted) == TOUR
    spans = backend.spans(wanted)
    assert len({span.span_id for span in spans}) == len(spans)
    assert all(span.attributes["saga.id"] == "tour/4711" for span in spans)
    by_name = {span.name: span for span in spans if span.service == COORDINATOR}
    charge = by_name["step charge"]
    assert charge.status == "UNSET", "retried, and then successful"
    attempts = [span for span in spans if span.parent_id == charge.span_id]
    assert sorted(span.attributes["saga.attempt"] for span in attempts) == [1, 2, 3]
    assert [span.attributes.get("error.type") for span in sorted(attempts, key=lambda span: span.start)] == [
        "OSError",
        "OSError",
        None,
    ]
    starts = [span.start for span in spans if span.parent_id == by_name["saga tour"].span_id]
    assert len(set(starts)) == len(starts), "siblings never begin together: Jaeger would draw them in any order"


# ---- sampling -----------------------------------------------------------------------------------------------------


async def test_at_ten_percent_all_services_agree_on_every_saga(
    stage: Stage, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.1")
    namespace, rule = stage.settings.namespace, Sampling(0.1)
    drawn = {str(n): rule.decide(trace_id(namespace, f"tour/{n}"), False) for n in range(400)}
    keys = [*[key for key, yes in drawn.items() if yes][:3], *[key for key, yes in drawn.items() if not yes][:12]]
    await run_tour(stage, Trip(ships=True), keys, traceparent=UNSAMPLED)
    for key in keys:
        services = Counter(span.service for span in backend.spans(trace_id(namespace, f"tour/{key}")))
        expected = {COORDINATOR: 7, "inventory": 2, "screening": 2, "payment": 2, "shipping": 4} if drawn[key] else {}
        assert services == expected, f"tour/{key}: all of it, or nothing"


async def test_an_unsampled_saga_that_failed_shows_root_and_steps(
    stage: Stage, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    await run_tour(stage, traceparent=UNSAMPLED)
    wanted = trace_id(stage.settings.namespace, "tour/4711")
    assert backend.outline(wanted) == [line for line in TOUR if f"[{COORDINATOR}]" in line]


async def test_an_unsampled_saga_that_was_slow_shows_root_and_steps(
    stage: Stage, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    monkeypatch.setenv("CHOREO_TRACE_SLOW", "1s")

    async def takes_long() -> None:
        await stage.until(lambda sagas: any(system_clock() - saga.opened_at > SECOND for saga in sagas.values()))

    await run_tour(stage, Trip(ships=True, screens=takes_long), traceparent=UNSAMPLED)
    wanted = trace_id(stage.settings.namespace, "tour/4711")
    assert [line.split(" [")[0] for line in backend.outline(wanted)] == [
        "saga tour",
        "  saga tour started",
        *(f"  step {name}" for name in ("hold", "screen", "charge", "book", "ship")),
    ]


# ---- what others do to headers ------------------------------------------------------------------------------------


def _headers(record: Record, change: Callable[[str, bytes], list[tuple[str, bytes]]]) -> Record:
    return replace(record, headers=tuple(made for header in record.headers for made in change(*header)))


def strips(record: Record) -> Record:
    """A hop that knows nothing of tracing."""
    return _headers(record, lambda n, v: [] if n in ("traceparent", "tracestate", "saga-traceparent") else [(n, v)])


def rewrites(record: Record) -> Record:
    """A hop that puts every record into a trace of its own."""
    fresh = f"00-{uuid4().hex}-{uuid4().hex[:16]}-01".encode()
    return _headers(record, lambda n, v: [(n, fresh if n == "traceparent" else v)])


def doubles(record: Record) -> Record:
    """A hop that appends where it should replace."""
    other = f"00-{'d' * 32}-{'d' * 16}-01".encode()
    return _headers(record, lambda n, v: [(n, v), (n, other)] if n.endswith("traceparent") else [(n, v)])


def spoils(record: Record) -> Record:
    """A hop that writes what is no hex."""
    return _headers(record, lambda n, v: [(n, b"00-xyz-!!-\xff" if n.endswith("traceparent") else v)])


def unsamples(record: Record) -> Record:
    """A hop whose sampler has decided by itself."""
    return _headers(record, lambda n, v: [(n, v[:-2] + b"00" if n == "traceparent" else v)])


@pytest.mark.parametrize("hop", [strips, rewrites, doubles, spoils, unsamples])
async def test_a_legacy_hop_does_not_tear_the_saga_apart(
    tmp_path: Path, backend: Backend, hop: Callable[[Record], Record]
) -> None:
    async with a_stage(tmp_path, Legacy(hop)) as stage:
        await run_order(stage)
        found = backend.outline(trace_id(stage.settings.namespace, "order/4711"))
    assert [line.split(" ->")[0] for line in found] == [line.split(" ->")[0] for line in GOLDEN]


# ---- clocks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew", [-30, 30])
async def test_a_service_with_a_wrong_clock_gives_no_negative_duration(
    tmp_path: Path, backend: Backend, skew: int
) -> None:
    """What every service says of the time is wrong; the steps are in the order of the coordinator's clock."""

    def wrong(record: Record) -> Record:
        headers = dict(record.headers)
        said = headers.get("ce_time")
        if said is None or headers["ce_source"] not in (b"inventory", b"payment"):
            return record
        at = datetime.fromisoformat(said.decode()) + timedelta(seconds=skew)
        headers["ce_time"] = at.isoformat().replace("+00:00", "Z").encode()
        stamp = None if record.timestamp is None else record.timestamp + skew * 1_000
        return replace(record, headers=tuple(headers.items()), timestamp=stamp)

    async with a_stage(tmp_path, Legacy(wrong)) as stage:
        await run_order(stage)
        spans = backend.spans(trace_id(stage.settings.namespace, "order/4711"))
    assert all(span.end >= span.start for span in spans)
    assert all(span.attributes.get("saga.queue_ms", 0) >= 0 for span in spans)  # type: ignore[operator]
    steps = [span for span in spans if span.attributes.get("saga.step.index") is not None]
    assert [span.name for span in sorted(steps, key=lambda span: span.start)] == [
        "step reserve",
        "step charge",
        "compensate reserve",
    ]
    (root,) = [span for span in spans if span.name == "saga order"]
    assert all(root.start <= step.start and step.end <= root.end for step in steps)


# ---- long sagas ---------------------------------------------------------------------------------------------------


async def test_a_long_saga_has_a_trace_for_each_turn_and_no_orphan_in_any(stage: Stage, backend: Backend) -> None:
    options = Options(poll=0.01, tick=0.0, rotation=SECOND // 10)

    async def turns_twice() -> None:
        await stage.until(lambda sagas: any(len(saga.turned) >= 2 for saga in sagas.values()))

    await run_tour(stage, Trip(screens=turns_twice), traceparent=ORIGIN, options=options)
    epochs = []
    for epoch in range(400):
        if not (found := backend.outline(trace_id(stage.settings.namespace, "tour/4711", epoch))):
            break
        epochs.append(found)
    assert len(epochs) >= 3
    assert not [line for found in epochs for line in found if "orphan" in line]
    roots = [found[0] for found in epochs]
    assert roots[0] == f"saga tour [{COORDINATOR}] -> origin"
    assert all(line.endswith("-> origin -> previous") for line in roots[1:])
    assert [" ERROR " in line for line in roots] == [False] * (len(roots) - 1) + [True]
    parts = [line.strip() for found in epochs for line in found if f"[{COORDINATOR}]" not in line]
    whole = [line.strip() for line in TOUR if f"[{COORDINATOR}]" not in line]
    assert Counter(parts) == Counter(whole), "every attempt is there once, beneath its step"
    for number in range(len(epochs)):
        spans = backend.spans(trace_id(stage.settings.namespace, "tour/4711", number))
        assert max(Counter(span.span_id for span in spans).values()) == 1, "no span has two contents"
