"""A real Jaeger on loopback, built from its Go module, run with `compose/jaeger.yaml`, read by trace id.

From the checkout's root, `python -m tests.support.jaeger` prints its addresses and runs until its input closes. A
binary that is built so has no pages: the container image has them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

from choreo.tracing.otlp_json import read_otlp_json
from choreo.tracing.tree import Node, SpanRow, build_tree

from .cache import cached
from .go import build, go_version
from .otlp import outline
from .parts import Missing
from .ports import free_ports
from .server import Server, run_by_hand

VERSION = "v1.76.0"
"""Of the Go module, which has no newer one: it is release 2.13.0."""

CONFIG = Path(__file__).parent.parent.parent / "compose" / "jaeger.yaml"
_MODULE = f"github.com/jaegertracing/jaeger@{VERSION}"
_START_SECONDS = 180


def jaeger_binary() -> Path:
    """Give the program `jaeger`, built if it is not cached: five to ten minutes of a core, at low priority.

    Raises:
        Missing: Go is missing or too old.
    """
    return _binary(build_jaeger)


def cached_jaeger() -> Path:
    """Give the program `jaeger` if it was built before: a test must not take minutes.

    Raises:
        Missing: it was not, or Go is missing or too old.
    """
    return _binary(_refuse)


def _binary(fill: Callable[[Path], None]) -> Path:
    version = go_version("which builds Jaeger once")
    return cached(f"jaeger-{VERSION}-{version}", fill) / "jaeger"


def build_jaeger(folder: Path) -> None:
    """Build the program `jaeger` in a folder."""
    sys.stdout.write("Jaeger is being built, once: five to ten minutes\n")
    sys.stdout.flush()
    build(_MODULE, "./cmd/jaeger", folder / "jaeger", prefix=("nice", "-n", "10"))


def _refuse(folder: Path) -> None:
    raise Missing("it is not built yet; `make parts` builds it once, in five to ten minutes")


class JaegerServer(Server):
    """One Jaeger that keeps its traces in memory.

    Args:
        program: what `jaeger_binary` gives.
        pages: a configuration of its pages.
    """

    def __init__(self, program: Path, pages: Path | None = None) -> None:
        super().__init__("Jaeger", "choreo-jaeger-")
        self._program = program
        self._pages = pages
        self._query, self._otlp, self._otlp_grpc, self._query_grpc, self._health = free_ports(5)
        self._client = httpx.Client(base_url=self.url, trust_env=False, timeout=60)

    @property
    def url(self) -> str:
        """Its page, for `CHOREO_JAEGER`."""
        return f"http://127.0.0.1:{self._query}"

    @property
    def otlp(self) -> str:
        """For `OTEL_EXPORTER_OTLP_ENDPOINT`, with the protocol `http/protobuf`."""
        return f"http://127.0.0.1:{self._otlp}"

    @property
    def otlp_grpc(self) -> str:
        """For `OTEL_EXPORTER_OTLP_ENDPOINT`, with the protocol `grpc`."""
        return f"http://127.0.0.1:{self._otlp_grpc}"

    def start(self) -> None:
        """Start it; returns when it takes spans and answers."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "JAEGER_"))},
            "JAEGER_LISTEN_HOST": "127.0.0.1",
            "JAEGER_HTTP_PORT": str(self._query),
            "JAEGER_GRPC_PORT": str(self._query_grpc),
            "JAEGER_HEALTH_PORT": str(self._health),
            "JAEGER_OTLP_HTTP_PORT": str(self._otlp),
            "JAEGER_OTLP_GRPC_PORT": str(self._otlp_grpc),
        }
        more = [] if self._pages is None else [f"--set=extensions.jaeger_query.ui.config_file={self._pages}"]
        command = [self._program, "--config", CONFIG, *more]
        self.launch(command, self._is_healthy, seconds=_START_SECONDS, env=environment)

    def stop(self) -> None:
        """Kill it; its traces are gone."""
        self._client.close()
        super().stop()

    def spans(self, trace_id: int | str) -> list[SpanRow]:
        """Give every span that it shows of a trace, in its own order; none for a trace that it does not know."""
        text = trace_id if isinstance(trace_id, str) else f"{trace_id:032x}"
        answer = self._client.get(f"/api/v3/traces/{text}")
        if answer.status_code == 404:
            return []
        answer.raise_for_status()
        return read_otlp_json(answer.json()["result"])

    def tree(self, trace_id: int | str) -> list[Node]:
        """Give a trace as a tree."""
        return build_tree(self.spans(trace_id))

    def outline(self, trace_id: int | str) -> list[str]:
        """Give a trace as lines of text."""
        return outline(self.tree(trace_id))

    def _is_healthy(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self._health}/status", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


def _addresses(server: JaegerServer) -> str:
    return f"OTEL_EXPORTER_OTLP_ENDPOINT={server.otlp} CHOREO_JAEGER={server.url}"


if __name__ == "__main__":
    run_by_hand("Jaeger", lambda: JaegerServer(jaeger_binary()), _addresses)
