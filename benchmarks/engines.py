"""The order saga on engines that are not ours: each as its guide has it, at the concurrency that suits it best."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.ports import free_ports
from tests.support.server import Server

from .outside import peer, run, stores
from .stopwatch import Measured

_CALLERS = {"sqlite": 10, "postgresql": 4, "restate": 400}
"""How many sagas at once gave the most of them per second on two cores."""
_START_SECONDS = 60


async def dbos(_: str, home: Path, count: int, *, store: str, rate: int = 0) -> Measured:
    """Measure DBOS Transact on SQLite or PostgreSQL; with a `rate`, how long single sagas take."""
    url = f"sqlite:///{home / 'dbos.db'}" if store == "sqlite" else stores()[0]
    return await run("dbos", {"url": url, "count": count, "callers": _CALLERS[store], "rate": rate})


async def restate(_: str, home: Path, count: int, *, rate: int = 0) -> Measured:
    """Measure Restate: its server, a process of handlers, and one of callers."""
    ingress, admin, fabric, port = free_ports(4)
    with _restate(home, ingress, admin, fabric) as server, _handlers(port) as handlers:
        answer = httpx.post(
            f"http://127.0.0.1:{admin}/deployments", json={"uri": f"http://127.0.0.1:{port}"}, timeout=30
        )
        if answer.is_error:
            sys.exit(f"Restate did not take its handlers: {answer.text}")
        job = {"ingress": f"http://127.0.0.1:{ingress}", "count": count, "callers": _CALLERS["restate"], "rate": rate}
        pids = {"helpers": [_pid(handlers)], "servers": [_pid(server)]}
        return await run("restate", {**job, **pids}, ("call",))


@contextmanager
def _restate(home: Path, ingress: int, admin: int, fabric: int) -> Iterator[Server]:
    server = Server("Restate", "choreo-restate-")
    variables = {
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_INGRESS__BIND_PORT": str(ingress),
        "RESTATE_ADMIN__BIND_PORT": str(admin),
    }
    options = ("--base-dir", server.root / "data", "--bind-ip", "127.0.0.1", "--bind-port", fabric, "--node-name", "n1")
    command = [
        os.environ["CHOREO_BENCH_RESTATE"],
        *options,
        "--listen-mode",
        "tcp",
        "--log-filter",
        "warn",
        "--no-logo",
    ]
    try:
        server.launch(
            command,
            lambda: (
                _answers(f"http://127.0.0.1:{ingress}/restate/health") and _answers(f"http://127.0.0.1:{admin}/health")
            ),
            seconds=_START_SECONDS,
            env={**os.environ, **variables},
        )
        yield server
    finally:
        server.stop()


@contextmanager
def _handlers(port: int) -> Iterator[Server]:
    server = Server("Restate's handlers", "choreo-restate-handlers-")
    command = [peer(), "-m", "benchmarks.peers.restate", "serve", port]
    try:
        server.launch(command, lambda: _listens(port), seconds=_START_SECONDS, env=os.environ)
        yield server
    finally:
        server.stop()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).is_success
    except httpx.HTTPError:
        return False


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.2).close()
    except OSError:
        return False
    return True


def _pid(server: Server) -> int:
    assert server.process is not None
    return server.process.pid
