"""The stores that one call asks: one, or every shard's, whose contexts a pattern names (`--context 'shard-*'`)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from ...events.contexts import FILE, is_pattern, read_contexts
from .shell import Shell

if TYPE_CHECKING:
    from ...events.database import Database


@dataclass(frozen=True)
class Shells:
    """A shell for each store that a call asks.

    Args:
        each: one; of shards all, by their numbers.
    """

    each: Sequence[Shell]

    @classmethod
    def of(cls, shell: Shell) -> Self:
        """Make one for each context that `--context` or CHOREO_CONTEXT matches; a plain name is one.

        Raises:
            ConfigurationError: the contexts are not every shard of one installation, each once.
        """
        pattern = _pattern(shell)
        if not pattern:
            return cls((shell,))
        return cls([replace(shell, context=name) for name in _shards(shell, pattern)])

    @property
    def first(self) -> Shell:
        """One of them, for what they have in common: where the answer goes, and how."""
        return self.each[0]

    @asynccontextmanager
    async def sagas(self) -> AsyncIterator[Sequence[Database]]:
        """Open the store of each; see `Shell.sagas`.

        Raises:
            ConfigurationError: a context has the store of another shard.
        """
        async with AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(each.sagas()) for each in self.each]
            if len(self.each) > 1:
                for shell, store in zip(self.each, stores, strict=True):
                    await _check(shell, store)
            yield stores


def shell_for(shell: Shell, arguments: Mapping[str, Any]) -> Shell:
    """Give the shell of the shard that a command's saga is in; the same where there are no shards, or no saga is named.

    Args:
        shell: whose context may be a pattern.
        arguments: of the command; `saga` is type/key or a key.

    Raises:
        ConfigurationError: see `Shells.of`.
    """
    saga = arguments.get("saga") or arguments.get("what")  # a picture's `what` may be a type, which each shard knows
    if not saga or saga.startswith("@") or not _pattern(shell):
        return shell
    from ..shard import key_of, slot

    shells = Shells.of(shell).each
    return shells[slot(key_of(saga)) % len(shells)]


def _pattern(shell: Shell) -> str:
    """Give the pattern that stands in place of a context's name; "" where none does."""
    named = shell.context or os.environ.get("CHOREO_CONTEXT", "")
    return named if is_pattern(named) else ""


async def _check(shell: Shell, store: Database) -> None:
    from ...events.errors import ConfigurationError
    from ..shard import bound

    found, said = (await store.read(bound)).text, shell.settings.shard
    if found != said:
        raise ConfigurationError(
            f"context {shell.context} says shard={said}, and its store {store.url} is of "
            f"{f'shard {found}' if found else 'no shard'}"
        )


def _shards(shell: Shell, pattern: str) -> list[str]:
    """Give the names of the contexts that a pattern matches, by the number of their shard."""
    from fnmatch import fnmatchcase

    from ...events.errors import ConfigurationError
    from ..shard import Shard

    if shell.store:
        raise ConfigurationError(f"--store names one store, and --context {pattern} several: leave one out")
    named = read_contexts().named
    found = {name: values.get("shard") for name, values in named.items() if fnmatchcase(name, pattern)}
    if not found:
        there = f"it has {', '.join(sorted(named))}" if named else "it has none"
        raise ConfigurationError(f"no context of {FILE} is like {pattern}: {there}")
    if without := [name for name, shard in found.items() if not shard]:
        raise ConfigurationError(
            f"--context {pattern} matches {', '.join(without)}, which says of which shard it is with no shard=1/2: "
            "only shards of one installation can be asked together"
        )
    names = {Shard.read(str(replace(shell, context=name).settings.shard)): name for name in found}
    wanted = {Shard(number, next(iter(names)).of) for number in range(1, next(iter(names)).of + 1)}
    if names.keys() != wanted or len(names) != len(found):
        there = ", ".join(f"{name} ({shard})" for name, shard in found.items())
        raise ConfigurationError(
            f"--context {pattern} matches {there}: each shard of one installation has to be there, and once"
        )
    return [names[shard] for shard in sorted(wanted)]
