"""An assistant asks: the official client of the Model Context Protocol against `saga mcp` as a process."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from choreo.events.clock import SECOND, system_clock
from choreo.events.errors import StoreUnreachable
from choreo.saga.cli.assistant import assistant
from choreo.saga.cli.commanding import Commanding
from choreo.saga.cli.shell import Shell
from choreo.saga.words import Phase
from tests.saga.stage import Declined, Placed, Reserved, Stage
from tests.support.cli import environment
from tests.support.console import validate


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A coordinator with one saga whose undo has failed for good."""
    async with Stage(f"sqlite:{tmp_path / 'saga.db'}", now=system_clock() - 3_600 * SECOND) as stage:
        await stage.start()
        await stage.publish(Placed(order_id="1"), Reserved(order_id="1"), Declined(order_id="1"))
        await stage.until(lambda found: "order/1" in found and found["order/1"].phase is Phase.COMPENSATING)
        stage.now += 1_801 * SECOND
        await stage.until(lambda found: found["order/1"].phase is Phase.FAILED)
        yield stage


@asynccontextmanager
async def _client(home: Path, *options: str) -> AsyncIterator[Client]:
    settings = environment(home=home, broker="kafka://127.0.0.1:1")
    program = StdioServerParameters(
        command=sys.executable, args=["-m", "choreo", "mcp", *options], env=settings, cwd=str(home)
    )
    async with Client(program) as client:
        yield client


async def _ask(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content


async def _refusal(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return "".join(block.text for block in result.content if block.type == "text")


@pytest.mark.slow
async def test_an_assistant_finds_the_cause_and_the_remedy_in_two_questions(stage: Stage, tmp_path: Path) -> None:
    async with _client(tmp_path) as client:
        said = await _ask(client, "sagas", failed=True)
        assert said["command"] == "saga list --failed --limit=50"
        assert [validate(each, "saga.summary/v1")["id"] for each in said["answer"]] == ["order/1"]
        told = validate((await _ask(client, "why", saga="order/1"))["answer"], "saga.why/v1")
        assert "undo" in told["reasons"][0]["sentence"]
        assert any("saga retry-undo" in remedy for remedy in told["remedies"])
        assert (await _ask(client, "audit", target="order/1"))["exit_code"] == 0
        assert "at least 1 character" in await _refusal(client, "why", saga="")
        assert "order/7" in await _refusal(client, "why", saga="order/7")
        assert "begins with a dash" in await _refusal(client, "status", saga="--store=sqlite:/etc/passwd")


@pytest.mark.slow
async def test_what_an_assistant_changes_goes_by_the_rules_of_the_command_line(stage: Stage, tmp_path: Path) -> None:
    async with _client(tmp_path, "--allow-changes") as client:
        planned = await _ask(client, "mark_undone", saga="1", reason="done by hand", dry_run=True)
        assert validate(planned["answer"], "saga.command/v1")["state"] != "applied"
        assert (await stage.instances())["order/1"].phase is Phase.FAILED
        done = await _ask(client, "mark_undone", saga="1", reason="done by hand")
        assert validate(done["answer"], "saga.command/v1")["state"] == "applied"
        await stage.until(lambda found: found["order/1"].phase is Phase.COMPENSATED)
        refused = await _ask(client, "cancel", saga="1", reason="only to see", plan=True)
        assert refused["answer"]["refused"] is not None
        assert "reason" in await _refusal(client, "cancel", saga="1")


async def test_changes_and_bodies_are_offered_only_when_allowed() -> None:
    commanding = Commanding(Shell(), 1.0)
    looks = {tool.name for tool in await assistant(commanding).list_tools()}
    offered = await assistant(commanding, changes=True, payloads=True).list_tools()
    assert {"why", "status", "sagas", "doctor", "dead_letters"} <= looks
    assert looks.isdisjoint({"cancel", "approve", "retry_undo", "discard_dead_letters", "dead_letter"})
    assert {tool.name for tool in offered} > looks | {"cancel", "dead_letter"}
    for tool in offered:
        assert tool.description, tool.name
        assert tool.annotations is not None
        changes = tool.name not in looks | {"dead_letter"}
        assert tool.annotations.read_only_hint is not changes
        if changes:
            assert "reason" in tool.input_schema["required"]


async def test_a_command_line_that_is_repeated_masks_its_password(tmp_path: Path) -> None:
    store = "postgresql://choreo:hunter2@127.0.0.1:1/sagas"
    commanding = Commanding(Shell(store=store, home=str(tmp_path)), 60.0)
    said = await commanding.run(("locks",))
    assert said.answer is None
    assert "hunter2" not in said.line + "".join(said.remarks)
    assert "postgresql://choreo:***@127.0.0.1:1/sagas" in said.line


async def test_a_command_that_does_not_end_is_ended(tmp_path: Path) -> None:
    with pytest.raises(StoreUnreachable, match="saga demo has not answered within"):
        await Commanding(Shell(home=str(tmp_path)), 0.2).run(("demo",))


async def test_every_option_that_chooses_an_installation_is_handed_on(tmp_path: Path) -> None:
    given = {"broker": "memory:x", "store": f"sqlite:{tmp_path / 's.db'}", "prefix": "p.", "context": "nosuch"}
    said = await Commanding(Shell(home=str(tmp_path), **given), 60.0).run(("locks",))
    assert said.answer is None
    assert "nosuch" in "".join(said.remarks), "it asked that one and no other"
    for name, value in given.items():
        assert f"--{name}={value}" in said.line
