"""`saga new`: the project that it writes is one that passes its own tests and linters, and runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from choreo.events.errors import ConfigurationError
from choreo.saga.project.project import make_project
from tests.support.cli import Program, environment, saga
from tests.support.console import validate

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("projects")
    done = saga("new", "my-shop", env=environment(), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "my-shop/my_shop/saga.py" in done.stdout.splitlines()
    assert "cd my-shop && saga run my_shop" in done.stderr
    return folder / "my-shop"


def _tool(project: Path, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=project, env={**environment(), **env}, check=False, timeout=300
    )


def test_its_tests_pass(project: Path) -> None:
    known = {each.name for each in entry_points(group="pytest11")}
    loaded = () if "choreo" in known else ("-p", "choreo.saga.pytest_plugin")  # as an installed one is by itself
    done = _tool(project, "pytest", "-q", "-W", "error", "-p", "no:asyncio", "-p", "no:cacheprovider", *loaded)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def test_it_lints_and_type_checks_strictly(project: Path, tmp_path: Path) -> None:
    for arguments in (["check", "."], ["format", "--check", "."]):
        done = _tool(project, "ruff", *arguments, "--no-cache")
        assert done.returncode == 0, done.stdout
    (tmp_path / "choreo").symlink_to(ROOT)  # whatever the checkout is called, it is the package `choreo`
    options = ["--strict", "--follow-imports=silent", "--cache-dir", tmp_path / "cache"]
    done = _tool(project, "mypy", *options, MYPYPATH=f"{tmp_path}{os.pathsep}{project}")
    assert done.returncode == 0, done.stdout


def test_its_commands_work_as_its_readme_says(project: Path, tmp_path: Path) -> None:
    env = environment(home=tmp_path)
    program = Program(["saga", "run", "my_shop"], env=env, folder=tmp_path, name="run", cwd=project)
    program.start()
    try:
        program.until("running  services my-shop · sagas fulfilment@1")
        readme = (project / "README.md").read_text()
        command = "saga publish my_shop.events:OrderPlaced orders.csv"
        assert command in readme
        published = saga(*command.split()[1:], env=env, cwd=project)
        assert published.returncode == 0, published.stderr
        for key, code in (("1001", 0), ("1002", 3), ("1003", 3)):
            assert saga("wait", key, "--timeout", "60", env=env, cwd=project).returncode == code
        status = saga("status", "1002", env=env, cwd=project)
        assert "COMPENSATED" in status.stdout and "pay" in status.stdout
        assert program.stop() == 0
    finally:
        program.close()
    checked = saga("check", "my_shop", "--model", env=env, cwd=project)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_nothing_is_overwritten(project: Path, tmp_path: Path) -> None:
    (project / "my_shop" / "saga.py").write_text("mine")
    done = saga("new", "my-shop", env=environment(), cwd=project.parent)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: my-shop exists and is not empty; nothing is overwritten: choose another name, or remove it\n"
    )
    assert (project / "my_shop" / "saga.py").read_text() == "mine"
    empty = tmp_path / "corner_shop"
    empty.mkdir()
    here = saga("new", ".", "-o", "json", env=environment(), cwd=empty)
    assert here.returncode == 0, here.stderr
    told = validate(json.loads(here.stdout), "saga.project/v1")
    assert (told["name"], told["package"]) == ("corner_shop", "corner_shop")
    assert sorted(told["files"]) == sorted(str(path.relative_to(empty)) for path in empty.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("my shop", "use letters, digits"),
        ("1shop", "with a letter first"),
        ("shop-", "use letters, digits"),
        ("", "use letters, digits"),
        ("x" * 100, "use letters, digits"),
        ("class", "Python knows 'class' already"),
        ("Json", "Python knows 'json' already"),
        ("choreo", "Python knows 'choreo' already"),
        ("tests", "Python knows 'tests' already"),
    ],
)
def test_a_name_that_cannot_be_a_package_is_refused(name: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as found:
        make_project(name)
    assert says in found.value.message
