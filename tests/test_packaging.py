"""What users install is the whole package: nothing forgotten in the wheel or the source distribution."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("events", "tracing", "services", "saga")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _package_files() -> set[str]:
    """Every file of the package, as a path below the checkout's root."""
    found = {"__init__.py", "__main__.py", "py.typed"}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(str(path.relative_to(ROOT)))
    return found


def _run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution of a copy of the checkout, and the wheel that is built from it, as pip would."""
    folder = tmp_path_factory.mktemp("distributions")
    # Of a copy: setuptools keeps files that were deleted since in its build folder, and would ship them.
    unwanted = (".git", ".venv", ".*_cache", ".hypothesis", ".choreo", ".env", "__pycache__", "build", "*.egg-info")
    shutil.copytree(ROOT, folder / "checkout", ignore=shutil.ignore_patterns(*unwanted))
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, folder / "checkout", cwd=folder)
    [sdist] = folder.glob("*.tar.gz")
    [wheel] = folder.glob("*.whl")
    return sdist, wheel


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        licenses = [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
    assert sorted(names) == sorted(f"choreo/{name}" for name in _package_files())
    assert len(licenses) == 1


def test_the_source_distribution_holds_every_file_of_the_package_and_the_tests(
    distributions: tuple[Path, Path],
) -> None:
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = _package_files() | {"pyproject.toml", "README.md", "LICENSE", "Makefile", ".ci/run"}
    for folder in ("tests", "examples", "benchmarks", "compose", "docs"):
        files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        wanted |= {str(path.relative_to(ROOT)) for path in files if path.name != ".env"}
    assert wanted - names == set()


_IMPORT = """
import importlib, json, pkgutil, sys
import choreo

extras = set(json.loads(sys.argv[1]))
for name in choreo.__all__:
    getattr(choreo, name)
modules = ["choreo"]
absent = {}
for found in pkgutil.walk_packages(choreo.__path__, "choreo."):
    try:
        importlib.import_module(found.name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in extras:
            raise
        absent[found.name] = error.name
    modules.append(found.name)
print(json.dumps({"file": choreo.__file__, "all": choreo.__all__, "modules": modules, "absent": absent}))
"""


@pytest.mark.slow
def test_an_installed_wheel_imports_in_an_empty_environment(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    """With the declared dependencies only, so an undeclared one shows as well as a forgotten package."""
    environment = tmp_path / "environment"
    _run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    constraints = tmp_path / "constraints.txt"  # the versions that are tested; pip allows no extras in there
    constraints.write_text(re.sub(r"\[.*?\]", "", (ROOT / "tests" / "requirements.txt").read_text()))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    _run(*pip, "--constraint", constraints, distributions[1], cwd=tmp_path)

    extras = {
        "asyncpg",
        "faust",
        "starlette",
        "uvicorn",
        "jinja2",
        "uvloop",
        "mcp",
        "pytest",
    }  # pytest loads its plugin
    report = json.loads(_run(python, "-W", "error", "-c", _IMPORT, json.dumps(sorted(extras)), cwd=tmp_path))
    assert Path(report["file"]).is_relative_to(environment)
    modules = {
        "choreo." + name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in _package_files()
        if name.endswith(".py") and name != "__init__.py"
    }
    assert modules - set(report["modules"]) == set()
    assert len(report["all"]) == len(set(report["all"])) > 0

    shown = _run(environment / "bin" / "saga", "--help", cwd=tmp_path)
    assert "demo" in shown


def test_every_folder_with_code_is_a_listed_package() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    folders = {Path(name).parent for name in _package_files() if name.endswith(".py")}
    assert listed == {".".join(("choreo", *folder.parts)) for folder in folders}


def test_the_pinned_versions_lie_within_what_the_package_asks_for() -> None:
    from packaging.requirements import Requirement

    lines = (ROOT / "tests" / "requirements.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {pin.name.lower(): next(iter(pin.specifier)).version for pin in pins}
    asked = [*PROJECT["project"]["dependencies"]]
    for extra, requirements in PROJECT["project"]["optional-dependencies"].items():
        if extra != "web":  # comes with `saga serve`
            asked += requirements
    for requirement in map(Requirement, asked):
        version = pinned[requirement.name.lower()]
        assert requirement.specifier.contains(version), f"{requirement} does not allow the tested {version}"
