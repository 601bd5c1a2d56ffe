"""Completion in the shells themselves: bash, zsh and fish load the script and offer commands, options and sagas."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import shells
from tests.support.cli import SAGA, environment, saga
from tests.support.parts import Missing, missing

Ask = Callable[[Sequence[str], Mapping[str, str]], list[str]]
"""Gives what a shell, with the script loaded, offers for the last of some words."""


def _zsh(home: Path, scratch: Path, script: Path, typed: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """zsh has typed on, so the only candidate is the line's last word."""
    line = shells.ask_zsh(home, script, typed, env, scratch)
    return [] if line == " ".join(typed) else [line.split()[-1]]


@pytest.fixture(params=["bash", *(pytest.param(each, marks=pytest.mark.shells) for each in ("zsh", "fish"))])
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Ask:
    """A shell that has the script as it is installed, and can be asked."""
    kind, script = request.param, tmp_path / "completion-script"
    known: dict[str, Callable[[], Any]] = {
        "bash": lambda: shells.ask_bash,
        "zsh": lambda: partial(_zsh, shells.zsh_home(), tmp_path),
        "fish": lambda: partial(shells.ask_fish, shells.fish_home()),
    }
    try:
        found = known[kind]()
    except Missing as reason:
        missing(kind, str(reason))
    done = saga("completion", "install", "--shell", kind, "--out", str(script), "--no-startup", env=environment())
    assert done.returncode == 0, done
    return partial(found, script)


def test_a_shell_offers_commands_options_and_sagas_and_nothing_for_what_is_not_there(
    ask: Ask, shelf_home: Path, tmp_path: Path
) -> None:
    path = f"{SAGA.parent}{os.pathsep}{os.environ['PATH']}"
    env = {**environment(home=shelf_home), "PATH": path}
    for typed, offered in (
        ("saga stat", "status"),
        ("saga dlq expo", "export"),
        ("saga status --exi", "--exit-status"),
        ("saga status parcel/4", "parcel/4712"),
        ("saga list --type ord", "order"),
        ("saga list --output jsonl", "jsonl"),
    ):
        end = time.monotonic() + 120  # a store that does not answer at once is not waited for: ask again
        while offered not in (told := ask(typed.split(), env)):
            assert time.monotonic() < end, (typed, told)
    elsewhere = {**environment(home=tmp_path / "none"), "PATH": path}
    assert ask(["saga", "status", "order/"], elsewhere) == [], "and nothing is said of the store that is not there"
    assert ask(["saga", "--no-such-option-"], env) == []
