"""A new project: its name, its files, and how they are written."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from keyword import iskeyword
from pathlib import Path
from string import Template
from typing import NamedTuple

from ...events.errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9_-]{0,58}[A-Za-z0-9])?")
_TAKEN = {"choreo", "tests", "test", "site", "pydantic"}
_OLDEST = "0.1.0"

_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    ".gitignore": "gitignore",
    "orders.csv": "orders.csv",
    "{package}/__init__.py": "init.py",
    "{package}/events.py": "events.py",
    "{package}/service.py": "service.py",
    "{package}/saga.py": "saga.py",
    "tests/test_service.py": "test_service.py",
    "tests/test_saga.py": "test_saga.py",
    "tests/test_explore.py": "test_explore.py",
}


class Project(NamedTuple):
    """A project to be written.

    Args:
        name: as it is called.
        package: the name of its Python package.
        files: their contents by path.
    """

    name: str
    package: str
    files: dict[str, str]


def make_project(name: str) -> Project:
    """Make the files of a new project.

    Args:
        name: letters, digits, `-` and `_`.

    Raises:
        ConfigurationError: it cannot be a project's name.
    """
    package = name.lower().replace("-", "_")
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot be a project's name: use letters, digits, '-' and '_', with a letter first, e.g. my-shop"
        )
    if iskeyword(package) or package in sys.stdlib_module_names or package in _TAKEN:
        raise ConfigurationError(f"{name!r} cannot be a project's name: Python knows {package!r} already; add a word")
    words = {"name": name, "package": package, "service": package.replace("_", "-"), "version": _version()}
    found = {}
    for path, template in _FILES.items():
        text = files(__package__).joinpath(f"{template}.txt").read_text("utf-8")
        found[path.replace("{package}", package)] = Template(text).substitute(words)
    return Project(name, package, found)


def write_project(project: Project, folder: Path) -> list[Path]:
    """Write a project's files; give their paths.

    Raises:
        ConfigurationError: there is something in the folder already, or it cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigurationError(
                f"{folder} exists and is not empty; nothing is overwritten: choose another name, or remove it"
            )
        written = []
        for path, text in project.files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
            written.append(file)
    except OSError as error:
        raise ConfigurationError(f"cannot write {error.filename or folder}: {error.strerror or error}") from None
    return written


def _version() -> str:
    try:
        return version("choreo")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return _OLDEST
