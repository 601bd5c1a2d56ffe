"""What a shell completes: commands and options, names and types from the store, and nothing where that is not there."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from choreo.saga.cli import exits, suggesting
from tests.saga.shelf import COMPLETED, SHARED
from tests.support.cli import SAGA, environment
from tests.support.console import Console, validate


def _complete(saga: Console, *words: str) -> list[str]:
    done = saga("__complete", *words)
    assert done.code == exits.OK
    return [line.partition("\t")[0] for line in done.out.partition("\x1fbegin\n")[2].splitlines()]


@pytest.mark.parametrize("command", ["status", "watch", "history", "wait", "graph", "why", "trace", "approve"])
def test_names_of_sagas_come_from_the_store(looking: Console, command: str) -> None:
    assert set(COMPLETED) == set(_complete(looking, command, "order/470"))


def test_keys_and_types_are_completed_too(looking: Console) -> None:
    assert _complete(looking, "status", SHARED) == [SHARED]
    assert _complete(looking, "list", "--type", "or") == ["order"]


def test_the_store_that_is_named_on_the_line_is_asked(looking: Console, tmp_path: Path) -> None:
    assert _complete(looking, "status", "--home", str(tmp_path), "order/") == []
    assert _complete(looking, "--store", f"sqlite:{looking.home}/saga.db", "--home", "x", "status", "order/4700") == [
        "order/4700"
    ]


def test_where_the_store_is_wrong_nothing_is_suggested_and_nothing_said(
    looking: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "saga.db").write_text("no database")
    for store in (f"sqlite:{tmp_path}/none.db", f"sqlite:{tmp_path}/saga.db", "postgresql://a@127.0.0.1:1/x", "odd"):
        monkeypatch.setenv("CHOREO_STORE", store)
        assert _complete(looking, "status", "order/") == []
    assert not (tmp_path / "none.db").exists()


def test_a_store_that_takes_too_long_is_given_up(looking: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggesting, "PATIENCE", 0.01)
    monkeypatch.setattr(
        suggesting, "_IDS", "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, '' FROM n"
    )
    assert _complete(looking, "status", "order/") == []


@pytest.mark.parametrize(
    ("given", "environ", "store"),
    [
        ({}, {}, "sqlite:from-context/saga.db"),
        ({}, {"CHOREO_HOME": "env"}, "sqlite:env/saga.db"),
        ({}, {"CHOREO_STORE": "sqlite:x"}, "sqlite:x"),
        ({"context": "two"}, {"CHOREO_HOME": "env"}, "postgresql://two/db"),
        ({"home": "flag"}, {"CHOREO_HOME": "env"}, "sqlite:flag/saga.db"),
    ],
)
def test_the_store_is_the_one_that_the_settings_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], environ: dict[str, str], store: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("choreo.toml").write_text(
        'context = "one"\n[contexts.one]\nhome = "from-context"\n[contexts.two]\nstore = "postgresql://two/db"\n'
    )
    assert suggesting.store_of(given, environ) == store


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
def test_a_script_is_shown_and_written(looking: Console, kind: str, tmp_path: Path) -> None:
    script = looking("completion", "show", "--shell", kind).out
    assert "saga" in script
    out = tmp_path / "script"
    done = looking("completion", "install", "--shell", kind, "--out", out, "--no-startup", "-o", "json")
    told = validate(done.json, "saga.completion/v1")
    assert (told["shell"], told["path"]) == (kind, str(out))
    assert out.read_text().rstrip() == script.rstrip()


def test_bash_completes_a_command_and_a_name(shelf_home: Path, looking: Console, tmp_path: Path) -> None:
    script = tmp_path / "saga.bash"
    script.write_text(looking("completion", "show", "--shell", "bash").out)
    lines = [
        f"source {script}",
        'complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; '
        "COMPREPLY=(); _saga 2>/dev/null; printf '%s\\n' \"${COMPREPLY[@]}\"; }",
        "complete_words saga hist; echo --; complete_words saga status order/470",
    ]
    env = {**environment(home=shelf_home), "PATH": f"{SAGA.parent}{os.pathsep}{os.environ['PATH']}"}
    end = time.monotonic() + 120
    while True:
        done = subprocess.run(["bash", "-c", "\n".join(lines)], check=False, capture_output=True, text=True, env=env)
        commands, _, names = done.stdout.partition("--\n")
        assert "history" in commands.split(), done
        if names.split() or time.monotonic() > end:  # a store that does not answer at once is not waited for
            break
    assert {name.strip() for name in names.split()} == set(COMPLETED), done
