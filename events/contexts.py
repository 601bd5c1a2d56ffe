"""Contexts: named sets of settings in `choreo.toml`, one for each installation that somebody works with.

```toml
context = "dev"

[contexts.dev]
home = ".choreo"

[contexts.staging]
broker = "kafka://kafka.staging:9092"
store = "postgresql://reader@db.staging/choreo"
topic_prefix = "staging."
```
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .errors import ConfigurationError

FILE = Path("choreo.toml")
"""In the working directory."""


class ContextFile(NamedTuple):
    """What `choreo.toml` says.

    Args:
        values: the settings at its top, which hold in every context.
        named: the settings of each context, by its name.
        current: the context that is in use unless another one is named; empty: none.
    """

    values: Mapping[str, Any] = {}
    named: Mapping[str, Mapping[str, Any]] = {}
    current: str = ""

    def of(self, name: str) -> Mapping[str, Any]:
        """Give the settings of a context; of none where `name` is empty.

        Raises:
            ConfigurationError: there is no such context.
        """
        if not name:
            return {}
        if name not in self.named:
            there = (
                f"it has {', '.join(sorted(self.named))}" if self.named else "it has none; saga context add NAME ..."
            )
            several = "; a pattern is for `saga list`, and for one saga by its key" if is_pattern(name) else ""
            raise ConfigurationError(f"there is no context {name!r} in {FILE}: {there}{several}")
        return self.named[name]


def is_pattern(name: str) -> bool:
    """Whether it is no name of one context but a pattern that several may match, as in `shard-*`."""
    return any(each in name for each in "*?[")


def read_contexts(path: Path = FILE) -> ContextFile:
    """Read `choreo.toml`; a file that is not there says nothing.

    Raises:
        ConfigurationError: it is no TOML, cannot be read, or its contexts are no tables.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ContextFile()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is no TOML: {error}") from None
    named, current = found.pop("contexts", {}), found.get("context", "")
    if not isinstance(named, dict) or not all(isinstance(each, dict) for each in named.values()):
        raise ConfigurationError(f"{path}: write each context as a table, [contexts.NAME]")
    if not isinstance(current, str):
        raise ConfigurationError(f'{path}: `context` names the context in use, as in context = "dev"')
    return ContextFile(found, named, current)
