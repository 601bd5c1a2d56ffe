"""What a page's address asks for: the filters of `saga list` under the same names, and the command line for them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import quote, urlencode

from starlette.datastructures import QueryParams

from ...events.errors import ConfigurationError
from ..cli.times import moment
from ..queries import GROUPS, SORTS, Filter
from ..words import Condition, Phase

LIMIT = 50
MOST_ROWS = 500
_SEVERAL = ("type", "state", "condition", "step", "key", "tag")
_FLAGS = ("open", "failed", "waiting-for-person")
_SINGLE = ("since", "until", "older", "error", "group-by", "sort", "limit", "after")
_MOST_VALUES = 20
_MOST_CHARACTERS = 500


class Asked(NamedTuple):
    """A list that somebody asks for.

    Args:
        wanted: which sagas.
        sort: in which order.
        limit: rows of a page.
        after: where the page begins; "" is at the first one.
        given: names and values as they came, without `after`.
        group_by: count the sagas by one of `queries.GROUPS` instead of listing them; "" lists them.
    """

    wanted: Filter
    sort: str
    limit: int
    after: str
    given: tuple[tuple[str, str], ...]
    group_by: str = ""

    def value(self, name: str) -> str:
        """Give what was said for a name; several values with commas."""
        return ", ".join(value for each, value in self.given if each == name)

    @property
    def cli(self) -> str:
        """The command line that lists the same."""
        words = ["saga", "list"]
        for name, value in self.given:
            words += [f"--{name}"] if name in _FLAGS else [f"--{name}", value]
        return shlex.join(words)

    def address(self, path: str, **more: str) -> str:
        """Write the address of this list, other values over it: `group_by=""` leaves that out."""
        other = {name.replace("_", "-"): value for name, value in more.items()}
        given = [(name, value) for name, value in self.given if name not in other]
        query = urlencode([*given, *((name, value) for name, value in other.items() if value)])
        return f"{path}?{query}" if query else path


def read_list(query: QueryParams, now: int) -> Asked:
    """Read what a list's address says.

    Args:
        query: its parameters.
        now: the store's clock, microseconds.

    Raises:
        ConfigurationError: a parameter is none, or its value.
    """
    given = _given(query)
    unknown = sorted({name for name, _ in given} - {*_SEVERAL, *_FLAGS, *_SINGLE})
    if unknown:
        known = ", ".join((*_SEVERAL, *_FLAGS, *_SINGLE))
        raise ConfigurationError(f"{unknown[0][:60]!r} is no filter of a list; there are {known}")
    several = {name: _split(value for each, value in given if each == name) for name in _SEVERAL}
    single = {name: _one(name, [value for each, value in given if each == name]) for name in _SINGLE}
    flags = {name: any(each == name and _flag(name, value) for each, value in given) for name in _FLAGS}
    phases = _words("state", several["state"], [phase.value for phase in Phase])
    conditions = _words("condition", several["condition"], [each.value for each in Condition])
    if flags["waiting-for-person"]:
        conditions = (*conditions, Condition.WAITING_FOR_PERSON.value)
    wanted = Filter(
        types=several["type"],
        phases=phases,
        steps=several["step"],
        keys=several["key"],
        conditions=conditions,
        since=moment(single["since"], now, "since") if single["since"] else None,
        until=moment(single["until"], now, "until") if single["until"] else None,
        quiet_since=moment(single["older"], now, "older") if single["older"] else None,
        error=single["error"],
        tags=several["tag"],
        only_open=flags["open"],
        only_failed=flags["failed"],
    )
    sort = single["sort"] or "attention"
    if sort not in SORTS:
        raise ConfigurationError(f"sort {sort!r} is no order; write one of {', '.join(SORTS)}")
    group_by = single["group-by"]
    if group_by and group_by not in GROUPS:
        raise ConfigurationError(f"group-by {group_by[:40]!r}: write one of {', '.join(GROUPS)}")
    if group_by and single["after"]:
        raise ConfigurationError("a list that is grouped has one page; leave out after")
    canonical = [(name, value) for name in _SEVERAL for value in several[name]]
    canonical += [(name, "1") for name in _FLAGS if flags[name]]
    usual = {"sort": "attention", "limit": "" if group_by else str(LIMIT)}
    canonical += [
        (name, single[name])
        for name in ("since", "until", "older", "error", "group-by", "sort", "limit")
        if single[name] and single[name] != usual.get(name)
    ]
    limit = _limit(single["limit"], MOST_ROWS if group_by else LIMIT)
    return Asked(wanted, sort, limit, single["after"], tuple(canonical), group_by)


def saga_path(id_: str) -> str:
    """Write the path of a saga's page.

    A name that ends with ".json" has its dot encoded, so that the address is not that of another one's twin.
    """
    path = f"/sagas/{quote(id_, safe='/~')}"
    return f"{path.removesuffix('.json')}%2Ejson" if path.endswith(".json") else path


def command(*words: str) -> str:
    """Write a command line as a shell reads it."""
    return shlex.join(words)


def _given(query: QueryParams) -> list[tuple[str, str]]:
    given = [(name, value.strip()) for name, value in query.multi_items()]
    if len(given) > _MOST_VALUES * len(_SEVERAL) or any(len(value) > _MOST_CHARACTERS for _, value in given):
        raise ConfigurationError(f"too many filters, or one of more than {_MOST_CHARACTERS} characters; ask for less")
    return [(name, value) for name, value in given if value]


def _split(values: Iterable[str]) -> tuple[str, ...]:
    """Take several values, each once."""
    return tuple(dict.fromkeys(part for value in values if (part := value.strip())))


def _one(name: str, values: Sequence[str]) -> str:
    if len(values) > 1:
        raise ConfigurationError(f"{name} stands there twice; say it once")
    return values[0] if values else ""


def _flag(name: str, value: str) -> bool:
    if value.lower() not in ("1", "0", "true", "false", "on", "yes", "no"):
        raise ConfigurationError(f"{name}={value[:20]!r} is neither yes nor no; write {name}=1")
    return value.lower() in ("1", "true", "on", "yes")


def _words(name: str, values: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    found = {each.lower(): each for each in known}
    for value in values:
        if value.lower() not in found:
            raise ConfigurationError(f"{name} {value[:40]!r} is none; write one of {', '.join(known)}")
    return tuple(found[value.lower()] for value in values)


def _limit(text: str, usual: int) -> int:
    if not text:
        return usual
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= MOST_ROWS:
        raise ConfigurationError(f"limit {text[:20]!r}: write a number from 1 to {MOST_ROWS}")
    return int(text)
