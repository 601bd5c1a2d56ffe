"""What measurements run on: servers for the whole run, environments of peers, and a process for each of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.kafka import KafkaServer
from tests.support.postgres import PostgresServer, postgres_programs
from tests.support.server import started

from .environments import environment, restate_server
from .plan import Case

HERE = Path(__file__).parent
SECONDS = 420
"""How long one process may take, filling and checking included."""


class Failed(Exception):
    """A measurement came to nothing; the text ends with the reason."""


class Equipment:
    """Kafka, and what else is needed, from the first measurement that needs it to the end of the run.

    Args:
        jars: Kafka's.
    """

    def __init__(self, jars: Path) -> None:
        self._kafka = KafkaServer(jars)
        self._postgres: PostgresServer | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(started(self._kafka))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def broker(self, case: Case, folder: Path) -> str:
        """Give the broker's URL."""
        return f"kafka://{self._kafka.bootstrap}" if case.kafka else f"local:{folder / 'broker.db'}"

    def variables(self, case: Case) -> dict[str, str]:
        """Make what a case needs; give the environment variables that tell its process of it.

        Raises:
            Missing: it is not to be had here.
        """
        found: dict[str, str] = {}
        servers = [self._kafka] if case.kafka else []
        if case.peer is not None:
            found["CHOREO_BENCH_PEER"] = str(environment(case.peer))
        if case.peer == "restate":
            found["CHOREO_BENCH_RESTATE"] = str(restate_server())
        if case.postgres:
            server = self._durable_postgres()
            urls = [server.create_database() for _ in range(case.postgres)]
            found |= {"CHOREO_STORE": urls[0], "CHOREO_BENCH_STORES": json.dumps(urls)}
            servers.append(server)
        found["CHOREO_BENCH_SERVERS"] = ",".join(str(each.process.pid) for each in servers if each.process is not None)
        return found

    def _durable_postgres(self) -> PostgresServer:
        if self._postgres is None:
            server = PostgresServer(postgres_programs(), fsync="on", shared_buffers="256MB")
            self._postgres = self._stack.enter_context(started(server))
        return self._postgres


def measure(case: Case, name: str, equipment: Equipment, home: Path, count: int) -> Mapping[str, Any]:
    """Run one measurement in a process of its own, which ends with all that it has started.

    Raises:
        Failed: it failed, or took too long.
        Missing: something that it needs is not to be had here.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CHOREO_", "OTEL_"))}
    environment = {
        **kept,
        **equipment.variables(case),
        "PYTHONPATH": str(HERE.parent),
        "CHOREO_BENCH_RUN": name,
        "CHOREO_BENCH_TOPICS": case.topics,
        "OTEL_SDK_DISABLED": "false" if case.traced else "true",
    }
    folder = home / name
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.child", case.run, equipment.broker(case, folder), str(folder)]
    process = subprocess.Popen(
        [*command, str(count)], env=environment, cwd=folder, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        shown, said = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise Failed(f"it did not end within {SECONDS} s") from None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # nobody is left
            pass
        process.communicate()
        shutil.rmtree(folder, ignore_errors=True)
    if process.returncode or not shown.strip():
        raise Failed(f"it failed:\n{said[-4000:].strip() or process.returncode}")
    found: dict[str, Any] = json.loads(shown.splitlines()[-1])
    return found
