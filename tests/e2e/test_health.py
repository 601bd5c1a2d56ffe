"""`saga run --health` as a user has it, and the health check of the containers."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.support.cli import Program, environment, saga
from tests.support.console import validate

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "examples" / "quickstart" / "shop.py"


def _check(address: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "compose" / "healthy.py")]
    return subprocess.run(command, capture_output=True, text=True, env=environment(health=address), check=False)


def test_a_process_tells_when_it_is_ready_and_the_containers_check_asks_it(tmp_path: Path) -> None:
    env = environment(home=tmp_path)
    program = Program(["saga", "run", SHOP, "--health", "0"], env=env, folder=tmp_path, name="run")
    program.start()
    try:
        program.until("health 127.0.0.1:")
        found = re.search(r"health (127\.0\.0\.1:\d+)", program.output)
        assert found is not None
        with httpx.Client(base_url=f"http://{found[1]}", timeout=30) as client:
            for _ in range(600):
                answer = client.get("/readyz")
                if answer.status_code == 200:
                    break
                time.sleep(0.1)
            body = validate(answer.json(), "saga.health/v1")
            assert answer.status_code == 200 and body["ok"], body
            assert "coordinator" in {part["kind"] for part in body["parts"]}
        ready = _check(found[1])
        assert ready.returncode == 0 and "is ready" in ready.stdout, ready.stdout
        taken = saga("run", SHOP, "--health", found[1], env=environment(home=tmp_path / "other"))
        assert taken.returncode == 2
        assert taken.stderr.startswith(f"error: health: cannot listen on {found[1]}: ")
        assert program.stop() == 0
        assert _check(found[1]).returncode == 1
    finally:
        program.close()
