"""The examples of docs/testing.md run with pytest-asyncio alone (that they type-check: `tests/test_docs.py`)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's examples, one after another in one file, in a folder without any configuration."""
    text = (ROOT / "docs" / "testing.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    file = tmp_path_factory.mktemp("examples") / "test_examples.py"
    file.write_text("\n\n".join(blocks))
    (file.parent / "pytest.ini").write_text("[pytest]\n")
    return file


def run(program: Path, *arguments: object, **environment: str) -> str:
    command = [sys.executable, "-m", *map(str, arguments)]
    given = {**os.environ, **environment}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=program.parent, env=given)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_examples_run_without_any_configuration(program: Path) -> None:
    assert "4 passed" in run(program, "pytest", "-q", "-p", "no:cacheprovider", program)
