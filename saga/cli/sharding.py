"""`saga store shard`: make a store, or its copy, one of the shards that it splits into."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from ...events.errors import ConfigurationError
from .operate import DryRun, Yes, confirm, signed
from .progress import counting
from .shell import Shell

SHARDED = "saga.sharded/v1"


async def shard(
    which: str,
    /,
    *,
    reason: Annotated[str, Parameter(show_default=False)] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Make the coordinator's store one of the shards that it splits into, and take out the sagas of the others.

    Stop its coordinators, copy the store once for each shard, and say this of each copy: then start each with
    CHOREO_SHARD. Interrupted, say it again; until it is done no coordinator takes the store.

    For example: saga store shard 2/4 --store postgresql://db-2/choreo

    Args:
        which: one of several, 2/4. A store without shards becomes 1/2 or 2/2, shard 1/2 becomes 1/4 or 3/4.
        reason: why, for the audit.
        dry_run: only say how many sagas would stay.
        yes: do not ask.
    """
    from functools import partial

    from sqlalchemy import Connection, func, select

    from ...events.settings import load_settings
    from .. import audit
    from .. import shard as shards
    from ..tables import saga

    new = shards.Shard.read(load_settings(shard=which).shard)  # which says what is wrong with it
    if new.of == 1:
        raise ConfigurationError("which shard? write one of several as 2/4")
    group = shell.settings.group.removesuffix(shards.Shard.read(shell.settings.shard).suffix)
    async with shell.sagas() as database:
        total = await database.read(lambda c: int(c.execute(select(func.count()).select_from(saga)).scalar_one()))
        told: dict[str, Any] = {"schema": SHARDED, "store": database.url, "shard": new.text}
        if dry_run:
            stay = await database.read(lambda c: sum(map(new.owns, c.execute(select(saga.c.key)).scalars())))
            _tell(shell, {**told, "state": "dry-run", "stay": stay, "gone": total - stay})
            return
        if not yes:
            confirm(f"{database.url} becomes shard {new.text}, and sagas of other shards go from it")
        await database.write(lambda c: shards.begin_split(c, new, group))
        after, looked, gone = "", 0, 0
        with counting(shell, "sorting", total) as bar:
            while True:
                last, seen, went = await database.write(partial(shards.prune, shard=new, after=after))
                looked, gone = looked + seen, gone + went
                bar(looked)
                if last is None:
                    break
                after = last

        def note(connection: Connection) -> None:
            details = {"shard": new.text, "gone": gone}
            audit.record(
                connection, "store shard", signed(), outcome=audit.DONE, target="store", reason=reason, details=details
            )

        await database.write(note)
    _tell(shell, {**told, "state": "done", "stay": looked - gone, "gone": gone})


def _tell(shell: Shell, told: dict[str, Any]) -> None:
    if shell.machine:
        shell.json(told)
        return
    shell.lines([f"{told['store']}: shard {told['shard']}, {told['stay']:,} sagas stay, {told['gone']:,} of others go"])
    if told["state"] == "dry-run":
        shell.hint("nothing was done (--dry-run)")
    else:
        shell.hint(f"start its coordinators with CHOREO_SHARD={told['shard']}")
