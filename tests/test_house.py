"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = {"events": 0, "tracing": 1, "services": 2, "saga": 3}
MODULES = sorted(path for room in LEVELS for path in (ROOT / room).rglob("*.py"))
OF_EVENTS_FOR_TRACING = {"envelope", "ids", "clock", "errors", "settings", "wal"}
OWNERS = {"aiokafka": ("events/kafka.py", "events/kafka_client.py")}


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever it stands; ours as `choreo.<room>.<module>`."""
    package = ("choreo", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _tracked() -> list[Path]:
    """The files of the repository; in a source distribution, all of its files."""
    listed = subprocess.run(["git", "ls-files", "-z"], check=False, capture_output=True, text=True, cwd=ROOT)
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        hidden = (".venv", ".git", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis")
        paths = [path for path in ROOT.rglob("*") if not set(hidden) & set(path.parts)]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down_only(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for name in _imports(path):
        first, _, rest = name.partition(".")
        assert not (first == "choreo" and not rest), f"{path}: the public names are for users; import the module"
        if first == "choreo" and not path.relative_to(ROOT).is_relative_to("saga/demo"):
            other = rest.partition(".")[0]
            assert other not in LEVELS or LEVELS[other] <= LEVELS[room], f"{room} imports {name}: arrows point down"


@pytest.mark.parametrize("path", sorted((ROOT / "tracing").rglob("*.py")), ids=lambda path: path.name)
def test_tracing_needs_only_the_envelope_of_events(path: Path) -> None:
    for name in _imports(path):
        parts = name.split(".")
        if parts[:2] == ["choreo", "events"] and len(parts) > 2:
            assert parts[2] in OF_EVENTS_FOR_TRACING, f"tracing imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_client_library_has_one_owner(path: Path) -> None:
    for name in _imports(path):
        owners = OWNERS.get(name.partition(".")[0])
        assert owners is None or str(path.relative_to(ROOT)) in owners, f"{path} imports {name}, which is for {owners}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


def test_the_tree_is_loaded_under_its_own_names_only() -> None:
    """Else a class exists twice, and `isinstance` and registries go wrong without an error."""
    wrong = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or name == "__main__":
            continue
        path = Path(file).resolve()
        if not path.is_relative_to(ROOT.resolve()) or path.is_relative_to((ROOT / ".venv").resolve()):
            continue
        if name.partition(".")[0] not in ("choreo", "tests"):
            wrong[name] = str(path.relative_to(ROOT.resolve()))
    assert wrong == {}


def test_no_file_names_this_machine() -> None:
    """A path of the machine that it was written on, or a mirror's host, helps nobody and may tell too much."""
    needles = [str(ROOT.resolve()), str(Path.home()) + "/"]
    for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "GOPROXY", "HTTPS_PROXY", "https_proxy"):
        host = os.environ.get(variable, "").rpartition("@")[2].partition("://")[2].partition("/")[0].partition(",")[0]
        if host and "." in host:
            needles.append(host)
    needles += ["pypi.org" + "/simple", "repo1.maven" + ".org", "proxy.golang" + ".org", "registry.npmjs" + ".org"]
    needles = [needle for needle in needles if len(needle) > 4]
    for path in _tracked():
        text = path.read_bytes().decode("utf-8", "replace")
        for needle in needles:
            assert needle not in text, f"{path.relative_to(ROOT)} names {needle}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_left_for_later(path: Path) -> None:
    text = path.read_text()
    for needle in ("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error"):
        assert needle not in text, f"{path} says {needle}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_wait_never_swallows_a_cancellation(path: Path) -> None:
    """`asyncio.wait_for` does on Python 3.11 (gh-86296), so a stop may hang; `asyncio.timeout` does not."""
    assert "asyncio.wait_for(" not in path.read_text()


HEAVY = ("aiokafka", "sqlalchemy", "alembic", "opentelemetry.sdk", "fastavro", "httpx")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import json, sys\n"
        "from choreo.saga.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert [name for name in HEAVY if name in loaded] == []


def test_importing_the_package_is_cheap_until_a_name_is_used() -> None:
    code = "import choreo, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = json.loads(done.stdout)
    assert [name for name in (*HEAVY, "pydantic") if name in loaded] == []
