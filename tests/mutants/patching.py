"""Run our code with a module changed: the checkout stays as it is, the change is made while the module is imported."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


class Moved(AssertionError):
    """The text that a bug replaces does not stand in its module, or not once."""


class _Loader(SourceLoader):
    def __init__(self, path: str, source: str) -> None:
        self._path = path
        self._source = source

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_data(self, path: str) -> bytes:
        return self._source.encode()


class _Finder(MetaPathFinder):
    def __init__(self, changed: Mapping[str, str]) -> None:
        self._changed = changed

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        source = self._changed.get(fullname)
        if source is None:
            return None
        file = path_of(fullname)
        return importlib.util.spec_from_file_location(fullname, file, loader=_Loader(str(file), source))


def root() -> Path:
    """Give the folder that is the package."""
    spec = importlib.util.find_spec("choreo")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def path_of(module: str) -> Path:
    """Give the file of a module of ours."""
    return (root() / module.removeprefix("choreo.").replace(".", "/")).with_suffix(".py")


def replaced(module: str, old: str, new: str) -> str:
    """Give a module's source with one text replaced.

    Raises:
        Moved: the text is not there, or several times.
    """
    source = path_of(module).read_text()
    if source.count(old) != 1:
        raise Moved(f"{module} has {source.count(old)} times, not once: {old.strip().splitlines()[0]}")
    return source.replace(old, new)


def install(changed: Mapping[str, str]) -> None:
    """Have these modules run with the given source from now on; none of them may have been imported yet."""
    loaded = [name for name in changed if name in sys.modules]
    if loaded:
        raise AssertionError(f"{loaded[0]} was imported before it was changed")
    sys.meta_path.insert(0, _Finder(changed))
