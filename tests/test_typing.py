"""mypy finds what users get wrong, where they get it wrong, and nothing in what is right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / "typing"
ERROR = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): error: .*\[(?P<code>[a-z-]+)\]$")
MARK = re.compile(r"# E: (?P<codes>[a-z-]+(, [a-z-]+)*)$")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, int, str]]:
    """What mypy says of the two files: file, line and code."""
    sources = tmp_path_factory.mktemp("src")
    (sources / "choreo").symlink_to(ROOT)  # whatever the checkout is called, it is the package `choreo`
    files = [str(FOLDER / name) for name in ("must_pass.py", "must_fail.py")]
    options = ["--strict", "--no-error-summary", "--no-pretty", "--hide-error-context", "--follow-imports=silent"]
    options += ["--config-file=", "--explicit-package-bases"]  # users may have no plugin
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *files],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": f"{sources}:{FOLDER.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stderr == ""
    errors = [ERROR.match(line) for line in run.stdout.splitlines() if ": note: " not in line]
    assert all(errors), run.stdout
    return {(Path(e["file"]).name, int(e["line"]), e["code"]) for e in errors if e is not None}


def test_what_users_write_type_checks(found: set[tuple[str, int, str]]) -> None:
    assert sorted(error for error in found if error[0] != "must_fail.py") == []


def test_each_wrong_use_is_an_error_at_its_line(found: set[tuple[str, int, str]]) -> None:
    expected = set()
    for number, line in enumerate((FOLDER / "must_fail.py").read_text().splitlines(), 1):
        if (mark := MARK.search(line)) is not None:
            expected |= {("must_fail.py", number, code) for code in mark["codes"].split(", ")}
    assert len(expected) > 60
    given = {error for error in found if error[0] == "must_fail.py"}
    assert sorted(expected - given) == [], "these are not found"
    assert sorted(given - expected) == [], "these are found, but not marked"
