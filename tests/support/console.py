"""The command line called in this process: quick, and its output and exit code at hand."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog
from jsonschema import Draft202012Validator

from choreo.saga.cli.app import call

SCHEMAS = Path(__file__).parent.parent.parent / "docs" / "schemas"


class Done(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)


class Console:
    """Calls `saga` with settings of its own.

    Args:
        capsys: pytest's.
        home: the home folder.

    What else runs and logs in this process goes to standard error, apart from what a command prints.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str], home: Path) -> None:
        self._capsys = capsys
        self.home = home
        self._reset()

    def __call__(self, *arguments: object) -> Done:
        """Run one command."""
        self._capsys.readouterr()
        try:
            code = call([str(argument) for argument in arguments])
        finally:
            self._reset()
        out, err = self._capsys.readouterr()
        return Done(code, out, err)

    def _reset(self) -> None:
        # Loggers hold on to this test's standard error, which is closed after it.
        structlog.reset_defaults()
        structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


@cache
def validator(name: str) -> Draft202012Validator:
    """Give the validator of a published schema, e.g. `saga.status/v1`."""
    schema = json.loads((SCHEMAS / f"{name.replace('/', '.')}.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def validate(value: Any, name: str | None = None) -> Any:
    """Hold a value against the schema that it names, and (where given) that it must name; give it back."""
    assert name is None or value["schema"] == name
    validator(value["schema"]).validate(value)
    return value
