"""From Jaeger to the web view: the UI configuration that we ship is one Jaeger takes, and its links lead to a saga."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest

from choreo.events.memory import MemoryBroker
from choreo.saga.web.visitors import Role
from choreo.tracing.ids import trace_id
from tests.saga.stage import Placed, Stage
from tests.saga.traced import GOLDEN, run_order
from tests.support.jaeger import JaegerServer, cached_jaeger
from tests.support.otlp import OtlpSink
from tests.support.server import running
from tests.web.visits import Client

LINKS = Path(__file__).parents[2] / "compose" / "jaeger-links.json"


def _link(pattern: dict[str, Any], tags: dict[str, Any]) -> str:
    """Fill a link as Jaeger's page does: each tag by `encodeURIComponent`."""
    return re.sub(r"#\{([^{}]+)\}", lambda found: quote(str(tags[found[1]]), safe="!'()*-._~"), pattern["url"])


@pytest.mark.jaeger
def test_jaeger_takes_the_configuration_and_gives_it_to_its_pages() -> None:
    server: JaegerServer
    for server in running("Jaeger", lambda: JaegerServer(cached_jaeger(), LINKS)):
        page = httpx.get(server.url, trust_env=False, timeout=60).text
        found = re.search(r"^JAEGER_CONFIG = (.*);$", page, re.MULTILINE)
        assert found is not None, page
        assert json.loads(found[1]) == json.loads(LINKS.read_text())


@pytest.mark.jaeger
def test_jaeger_refuses_what_is_no_configuration(tmp_path: Path) -> None:
    """So that the test before says something."""
    broken = tmp_path / "broken.json"
    broken.write_text('{"linkPatterns": [')
    for _ in running("Jaeger", lambda: _Refused(cached_jaeger(), broken)):
        pass


class _Refused(JaegerServer):
    def start(self) -> None:
        with pytest.raises(RuntimeError, match="did not start"):
            super().start()


async def test_every_span_of_a_saga_links_to_its_page(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [pattern] = json.loads(LINKS.read_text())["linkPatterns"]
    with OtlpSink() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        async with Stage(f"sqlite:{tmp_path / 'traced.db'}", live=True, broker=MemoryBroker("elsewhere")) as stage:
            await run_order(stage, "7")
        monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
        spans = sink.spans(trace_id("", "order/7"))
    assert len(spans) == len(GOLDEN)
    assert pattern["type"] == "tags"
    links = {_link(pattern, dict(span.attributes)) for span in spans if pattern["key"] in span.attributes}
    assert all(pattern["key"] in span.attributes for span in spans)
    assert links == {"http://127.0.0.1:8080/sagas/order%2F7"}
    web = await client(local=Role.VIEWER)
    page = await web.get(urlsplit(links.pop()).path)
    assert page.status_code == 200
    assert "order/7" in page.text


async def test_the_link_of_a_saga_with_an_odd_name_leads_to_it(client: Client, sqlite_stage: Stage) -> None:
    [pattern] = json.loads(LINKS.read_text())["linkPatterns"]
    web = await client(local=Role.VIEWER)
    await sqlite_stage.publish(Placed(order_id="a b/ü%41"))
    found = await sqlite_stage.until(lambda all_: len(all_) == 2)
    [name] = set(found) - {"order/7"}
    page = await web.get(urlsplit(_link(pattern, {"saga.id": name})).path)
    assert page.status_code == 200
    assert name in page.text
