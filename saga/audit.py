"""Who changed what, when and why: rows in the store, written with the change, each bound to the one before by a hash.

A row's hash is BLAKE2b over the hash before it and the row as canonical JSON. What may name persons, the reason and
the details, is not hashed itself: the row holds a digest of it together with a random salt, so that `saga erase` can
take it out later, salt and all, and the chain still holds. Whoever changes, removes or inserts a row breaks the chain
there; who can write to the store can still write the whole chain anew, or cut its end off, which shows only to somebody
who has kept a hash (`saga audit verify --head`, `saga audit export`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, func, insert, select, text, update

from ..events.clock import system_clock
from .tables import audit

FIRST = "0" * 64
"""What the first row is bound to."""

ASKED = "asked"
"""Outcome of what a coordinator has still to do: another row of the same command says what became of it."""

DONE = "done"
ERASE = "erase"

_PAGE = 1_000
_BOUND = ("seq", "at", "action", "target", "by", "host", "via", "token", "outcome", "command_id", "digest")


class Who(NamedTuple):
    """Who changes something.

    Args:
        by: the person, as the system knows them.
        host: the machine, as user@machine where that user acts for another person; "" where nobody knows.
        via: through what: cli, web, gateway, coordinator.
        token: name of the token that let them in; never the token itself.
    """

    by: str
    host: str = ""
    via: str = ""
    token: str = ""


class Row(NamedTuple):
    """One change, as the chain has it; `sealed` is the JSON of salt, reason and details, None where it was erased."""

    seq: int
    at: int
    action: str
    target: str | None
    by: str
    host: str
    via: str
    token: str
    outcome: str
    command_id: str | None
    sealed: str | None
    digest: str
    hash: str

    @property
    def reason(self) -> str:
        """Why; "" where it was erased."""
        return "" if self.sealed is None else str(json.loads(self.sealed)["reason"])

    @property
    def details(self) -> Mapping[str, Any]:
        """What else is known of it; nothing where it was erased."""
        found: Mapping[str, Any] = {} if self.sealed is None else json.loads(self.sealed)["details"]
        return found


class Broken(NamedTuple):
    """The first row at which a chain does not hold, and why."""

    seq: int
    why: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What reading a whole chain has told.

    Args:
        rows: how many there are.
        head: hash of the last one.
        erased: rows whose reason and details were erased, rightly.
        broken: where it does not hold; None where it does.
    """

    rows: int
    head: str
    erased: int = 0
    broken: Broken | None = None


def record(
    connection: Connection,
    action: str,
    who: Who,
    *,
    outcome: str,
    target: str | None = None,
    reason: str = "",
    details: Mapping[str, Any] | None = None,
    command_id: str | None = None,
    at: int | None = None,
) -> int:
    """Append one row; call it within the transaction of the change itself.

    Writers queue up here until the end of their transactions, so it comes last.

    Args:
        connection: within a write.
        action: what was done: cancel, pause, dlq retry, erase.
        who: by whom.
        outcome: asked, applied, refused, or done.
        target: what it was about: a saga, a schedule, a dead letter.
        reason: why, as the person says.
        details: what else is worth knowing; no payloads, no secrets.
        command_id: the command that it belongs to.
        at: microseconds; this machine's clock by default.

    Returns:
        Its place in the chain.
    """
    if connection.dialect.name == "postgresql":  # SQLite has one writer at a time
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('choreo-audit'))"))
    last = connection.execute(select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)).first()
    sealed = _canonical({"salt": os.urandom(16).hex(), "reason": reason, "details": dict(details or {})})
    row: dict[str, Any] = {
        "seq": 1 if last is None else last.seq + 1,
        "at": system_clock() if at is None else at,
        "action": action,
        "target": target,
        **who._asdict(),
        "outcome": outcome,
        "command_id": command_id,
        "digest": _digest(sealed),
    }
    row["hash"] = _hash(FIRST if last is None else last.hash, row)
    connection.execute(insert(audit), {**row, "sealed": sealed})
    return int(row["seq"])


def asked_by(connection: Connection, command_id: str) -> Who | None:
    """Say who asked for a command; None where nobody wrote it down."""
    query = select(audit.c.by, audit.c.host, audit.c.via, audit.c.token)
    row = connection.execute(query.where(audit.c.command_id == command_id).order_by(audit.c.seq).limit(1)).first()
    return None if row is None else Who(*row)


@dataclass(frozen=True)
class Wanted:
    """Which rows; what is empty does not restrict.

    Args:
        target: about this: exactly, or a saga's type, or its key.
        by, action, outcome: of this person, this action, this outcome.
        since, until: written at or after, and before; microseconds.
        unfolded: also the asking where another row says what became of it.
        before: only rows with a lower place; None for all.
    """

    target: str = ""
    by: str = ""
    action: str = ""
    outcome: str = ""
    since: int | None = None
    until: int | None = None
    unfolded: bool = False
    before: int | None = None


def read(connection: Connection, wanted: Wanted, *, limit: int | None = None) -> list[Row]:
    """Read rows, the newest first."""
    query = select(*_columns()).order_by(audit.c.seq.desc()).limit(limit)
    if wanted.target:
        like = wanted.target.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        query = query.where(
            (audit.c.target == wanted.target)
            | audit.c.target.like(f"{like}/%", escape="\\")
            | audit.c.target.like(f"%/{like}", escape="\\")
        )
    for column, value in ((audit.c.by, wanted.by), (audit.c.action, wanted.action), (audit.c.outcome, wanted.outcome)):
        if value:
            query = query.where(column == value)
    if wanted.since is not None:
        query = query.where(audit.c.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(audit.c.at < wanted.until)
    if wanted.before is not None:
        query = query.where(audit.c.seq < wanted.before)
    if not wanted.unfolded and not wanted.outcome:
        told = audit.alias()
        answered = select(told.c.seq).where(told.c.command_id == audit.c.command_id, told.c.seq > audit.c.seq)
        query = query.where((audit.c.outcome != ASKED) | audit.c.command_id.is_(None) | ~answered.exists())
    return [Row._make(row) for row in connection.execute(query)]


def find(connection: Connection, seq: int) -> Row | None:
    """Read one row by its place."""
    row = connection.execute(select(*_columns()).where(audit.c.seq == seq)).first()
    return None if row is None else Row._make(row)


def chain(connection: Connection) -> Iterator[Row]:
    """Read every row, in its order, a page at a time."""
    after = 0
    while True:
        query = select(*_columns()).where(audit.c.seq > after).order_by(audit.c.seq).limit(_PAGE)
        rows = [Row._make(row) for row in connection.execute(query)]
        yield from rows
        if len(rows) < _PAGE:
            return
        after = rows[-1].seq


def verify(rows: Iterable[Row], *, head: str = "") -> Verdict:
    """Check a whole chain, as the store or an export has it.

    Args:
        rows: all of it, in order.
        head: a hash that somebody has kept: it must be in the chain.

    Returns:
        How it stands; the first row that does not hold is named.
    """
    before, count, kept = FIRST, 0, not head
    erased: dict[int, None] = {}
    allowed: set[int] = set()
    broken: Broken | None = None
    for row in rows:
        count += 1
        if broken is not None:
            continue
        broken = _wrong(row, count, before)
        before, kept = row.hash, kept or row.hash == head
        if row.sealed is None:
            erased[row.seq] = None
        elif row.action == ERASE:
            allowed.update(row.details.get("rows", ()))
    if broken is None and (missing := [seq for seq in erased if seq not in allowed]):
        broken = Broken(missing[0], "its reason and details are gone, and no `saga erase` has taken them")
    if broken is None and not kept:
        broken = Broken(
            count + 1, f"no row has the hash {head[:16]}..., so rows were cut off, or the chain is another one"
        )
    return Verdict(count, before, len(erased), broken)


def _wrong(row: Row, place: int, before: str) -> Broken | None:
    if row.seq != place:
        return Broken(place, f"it is missing; the next one is {row.seq}")
    if row.hash != _hash(before, row._asdict()):
        return Broken(row.seq, "it does not match its hash: it, or the one before it, was changed")
    if row.sealed is not None and row.digest != _digest(row.sealed):
        return Broken(row.seq, "its reason or details were changed")
    return None


def erase(connection: Connection, targets: Sequence[str]) -> list[int]:
    """Take reason and details out of the rows about these; the chain holds, for it has only their digest.

    Returns:
        The places of the rows; the row of the erasure must name them as `rows`.
    """
    found: list[int] = []
    for start in range(0, len(targets), _PAGE):
        named = audit.c.target.in_(targets[start : start + _PAGE])
        about = and_(named, audit.c.sealed.isnot(None), audit.c.action != ERASE)
        found += connection.execute(select(audit.c.seq).where(about).order_by(audit.c.seq)).scalars()
        connection.execute(update(audit).where(about).values(sealed=None))
    return sorted(found)


def count(connection: Connection, targets: Sequence[str]) -> int:
    """Count the rows that `erase` would change."""
    query = select(func.count()).select_from(audit)
    query = query.where(audit.c.sealed.isnot(None), audit.c.action != ERASE, audit.c.target.in_(targets))
    return int(connection.execute(query).scalar_one())


def told(row: Row, before: str | None = None) -> dict[str, Any]:
    """Tell a row as an export has it: all that `verify` needs; `before` is the hash that it is bound to."""
    values = row._asdict()
    return values if before is None else {**values, "previous": before}


def from_export(values: Mapping[str, Any]) -> Row:
    """Read a row of an export.

    Raises:
        KeyError: it is none.
    """
    return Row._make(values[name] for name in Row._fields)


def _columns() -> list[Any]:
    return [audit.c[name] for name in Row._fields]


def _hash(before: str, row: Mapping[str, Any]) -> str:
    return _digest(before + _canonical({name: row[name] for name in _BOUND}))


def _digest(told: str) -> str:
    return blake2b(told.encode(), digest_size=32).hexdigest()


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
