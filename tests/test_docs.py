"""What README, docs and examples show is true: Python type-checks and runs, `saga` commands exist as they are written.

The Python blocks of a page are one program, from top to bottom. What it takes as given (event classes, say) stands in a
comment of the page that readers do not see:

    <!-- python
    from shop import OrderPlaced
    -->
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from choreo.saga.cli.app import app

ROOT = Path(__file__).parents[1]
FOLDERS = (ROOT / "docs", *(path for path in (ROOT / "examples").iterdir() if path.is_dir()))
PAGES = [ROOT / "README.md", *sorted(page for folder in FOLDERS for page in folder.glob("*.md"))]
PYTHON = re.compile(r"^(?:```python|<!-- python)\n(.*?)^(?:```|-->)$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```(?P<language>[a-z]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`saga ([a-z][^`]*)`")


def program(page: Path) -> str:
    """Give the Python of a page, each line where it stands on the page."""
    text = page.read_text()
    lines = [""] * text.count("\n")
    for block in PYTHON.finditer(text):
        first = text.count("\n", 0, block.start(1))
        for number, line in enumerate(block[1].splitlines()):
            lines[first + number] = line
    return "\n".join(lines) + "\n"


WITH_PYTHON = [page for page in PAGES if program(page).strip()]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT)).removesuffix(".md")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages' programs and the examples, in one folder, beside a `choreo` that is this checkout."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "source").mkdir()
    (folder / "source" / "choreo").symlink_to(ROOT)  # whatever the checkout is called
    for page in WITH_PYTHON:
        (folder / module_of(page)).write_text(program(page))
    return folder


def module_of(page: Path) -> str:
    return f"page_{re.sub('[^a-z]+', '_', name(page).lower())}.py"


def test_the_python_of_every_page_and_every_example_type_checks(programs: Path) -> None:
    examples = sorted((ROOT / "examples").glob("*/*.py"))
    files = [*(module_of(page) for page in WITH_PYTHON), *map(str, examples)]
    # A body that is left out is `...`; some libraries that pages speak of have no types.
    options = ["--strict", "--follow-imports=silent", "--no-error-summary", "--allow-subclassing-any"]
    options += ["--disable-error-code=empty-body", "--disable-error-code=import-untyped"]
    options += ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(programs / "cache")]
    command = [sys.executable, "-m", "mypy", *options, *files]
    paths = os.pathsep.join(map(str, (programs / "source", ROOT / "examples" / "quickstart")))
    environment = {**os.environ, "MYPYPATH": paths}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=programs, env=environment)
    assert done.returncode == 0, f"line numbers are those of the pages:\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_the_python_of_a_page_runs(page: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "quickstart"))
    called = module_of(page).removesuffix(".py")
    spec = util.spec_from_file_location(called, programs / module_of(page))
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, called, module)  # annotations are looked for there
    spec.loader.exec_module(module)


def test_no_python_hides_under_another_name() -> None:
    found = {(name(page), block["language"]) for page in PAGES for block in FENCE.finditer(page.read_text())}
    assert {each for each in found if each[1].startswith("py") and each[1] != "python"} == set()


def commands(page: Path) -> list[tuple[int, list[str]]]:
    """Give the `saga` command lines of a page's blocks, with their line numbers."""
    text, found = page.read_text(), []
    for block in FENCE.finditer(text):
        if block["language"] not in ("", "sh", "bash", "console"):
            continue
        first, lines = text.count("\n", 0, block.start("body")) + 1, block["body"].splitlines()
        prompted = any(line.startswith("$ ") for line in lines)
        for number, line in enumerate(lines):
            shown = line.startswith("$ ") if prompted else block["language"] != ""  # else it is a picture, or an output
            given = line.removeprefix("$ ") if shown else ""
            if given.startswith("saga "):
                found.append((first + number, split(given, lines[number + 1 :])))
    return found


def split(line: str, following: list[str]) -> list[str]:
    """Split a command line as a shell does; one that ends within quotes goes on in the next line."""
    for more in (*following, ""):
        try:
            if not line.endswith("\\"):
                tokens = shlex.split(line, comments=True)
                ends = [number for number, token in enumerate(tokens) if re.fullmatch(r"[|&;]+|[0-9]?>.*", token)]
                return tokens[1 : ends[0] if ends else None]
        except ValueError:
            pass
        line = f"{line.removesuffix(chr(92))}\n{more}"
    raise AssertionError(f"no shell can read {line!r}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_line_of_a_page_is_understood(page: Path) -> None:
    for number, tokens in commands(page):
        where = f"{name(page)}.md:{number}: saga {' '.join(tokens)}"
        try:
            _, bound, _ = app.meta.parse_args(tokens, exit_on_error=False, print_error=False)
            app.parse_args(list(bound.args), exit_on_error=False, print_error=False)
        except CycloptsError as error:
            pytest.fail(f"{where}\n{error}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_that_a_page_names_exists_with_its_options(page: Path) -> None:
    for said in INLINE.findall(page.read_text()):
        words = re.sub(r"[\[\]|]", " ", said).split()
        _, apps, _ = app.parse_commands([word for word in words if not word.startswith("-")])
        assert len(apps) > 1, f"{name(page)}.md: there is no command `saga {said}`"
        parameters = [each for found in (app.meta, apps[-1]) for each in found.assemble_argument_collection()]
        known = {option for each in parameters for option in each.names}
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        wrong = [option for option in options if option not in known]
        assert wrong == [], f"{name(page)}.md: `saga {said}` does not know {', '.join(wrong)}"
