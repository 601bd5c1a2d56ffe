"""Run our code with a module changed: the checkout stays as it is, the change is made while the module is imported."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Changed(NamedTuple):
    """The whole source of a module, as it is to run."""

    source: str


class _Loader(SourceLoader):
    def __init__(self, path: str, source: str) -> None:
        self._path = path
        self._source = source

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_data(self, path: str) -> bytes:
        return self._source.encode()


class _Finder(MetaPathFinder):
    def __init__(self, changed: Mapping[str, Changed]) -> None:
        self._changed = changed

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        changed = self._changed.get(fullname)
        if changed is None:
            return None
        loader = _Loader(str(path_of(fullname)), changed.source)
        return importlib.util.spec_from_file_location(fullname, path_of(fullname), loader=loader)


def path_of(module: str) -> Path:
    """Give the file of a module of ours."""
    return (ROOT / module.removeprefix("choreo.").replace(".", "/")).with_suffix(".py")


def install(changed: Mapping[str, Changed]) -> None:
    """Have these modules run as given from now on; none of them may have been imported yet."""
    loaded = [name for name in changed if name in sys.modules]
    if loaded:
        raise AssertionError(f"{loaded[0]} was imported before it was changed")
    sys.meta_path.insert(0, _Finder(changed))
