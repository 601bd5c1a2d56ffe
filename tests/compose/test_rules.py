"""Prometheus itself judges `compose/prometheus`: configuration and rules, and what each rule does on made-up series."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
import yaml

from choreo.saga import metering
from tests.saga.metered import measured
from tests.support import parts
from tests.support.commands import COMPOSE_FILE
from tests.support.promtool import VERSION, cached_promtool

pytestmark = pytest.mark.compose
FOLDER = COMPOSE_FILE.parent / "prometheus"


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return cached_promtool()
    except parts.Missing as missing:
        parts.missing("promtool", str(missing))


def _run(program: Path, *arguments: object, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], check=False, capture_output=True, text=True, input=text)


def test_prometheus_takes_the_configuration_and_the_rules(program: Path, tmp_path: Path) -> None:
    done = _run(program, "check", "rules", "--lint=all", "--lint-fatal", FOLDER / "rules.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    config = tmp_path / "prometheus.yaml"  # it names the rules where they are in the container
    config.write_text((FOLDER / "prometheus.yaml").read_text().replace("/etc/prometheus/", f"{FOLDER}/"))
    done = _run(program, "check", "config", "--lint=all", "--lint-fatal", config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "13 rules found" in done.stdout
    config.write_text(config.read_text().replace("dns_sd_configs", "dsn_sd_configs"))
    assert _run(program, "check", "config", config).returncode != 0, "it looks closely"


def test_each_rule_fires_when_it_should_and_not_before(program: Path, tmp_path: Path) -> None:
    done = _run(program, "test", "rules", FOLDER / "rules.test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = (FOLDER / "rules.yaml").read_text().replace("for: 30m", "for: 20m")
    (tmp_path / "rules.yaml").write_text(wrong)
    (tmp_path / "rules.test.yaml").write_text((FOLDER / "rules.test.yaml").read_text())
    done = _run(program, "test", "rules", tmp_path / "rules.test.yaml")
    assert done.returncode != 0 and "UndoStopped" in done.stdout + done.stderr, "a rule that is wrong is found"


def test_every_rule_is_played_both_ways() -> None:
    groups = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
    rules = {rule["alert"] for group in groups for rule in group["rules"]}
    played = yaml.safe_load((FOLDER / "rules.test.yaml").read_text())["tests"]
    cases = [each for test in played for each in test["alert_rule_test"]]
    assert {each["alertname"] for each in cases if each["exp_alerts"]} == rules
    assert {each["alertname"] for each in cases if not each["exp_alerts"]} == rules


def test_prometheus_reads_what_a_process_shows(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "KEPT", 0.0)

    async def scraped() -> str:
        async with measured(tmp_path) as client:
            return (await client.get("/metrics")).text

    done = _run(program, "check", "metrics", text=asyncio.run(scraped()))
    assert "error" not in done.stderr.lower(), done.stderr
    assert done.returncode in (0, 3), f"{done.stderr}: 3 is for names that are not as Prometheus' own are"


def test_the_judge_is_of_the_release_that_runs() -> None:
    image = yaml.safe_load(COMPOSE_FILE.read_text())["services"]["prometheus"]["image"]
    assert (VERSION, image) == ("v0.305.0", "prom/prometheus:v3.5.0")
