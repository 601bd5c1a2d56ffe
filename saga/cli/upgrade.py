"""`saga store`: the stores' tables."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from .backup import backup
from .shell import Shell
from .tables import draw

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ...events.database import Database
    from ...events.settings import Settings

store = App(
    name="store", help="Stores: bring them to this release, back up the coordinator's.", help_format="plaintext"
)
store.command(backup)


@store.command
def upgrade(*targets: str, shell: Annotated[Shell, Parameter(parse=False)]) -> None:
    """Bring the tables of the coordinator's store and of the services' stores to this release.

    Each room of a store is upgraded in one transaction, forward only. Stop what writes to a SQLite file first.

    Args:
        targets: also the stores of these services, named as for `saga run`; those in the home folder are found.
    """
    asyncio.run(_upgrade(shell, _stores(shell.settings, targets)))


async def _upgrade(shell: Shell, stores: dict[str, set[str]]) -> None:
    from ...events.database import Database, schema_version
    from ...events.migrate import ROOMS
    from ...events.migrate import upgrade as migrate

    done: list[dict[str, Any]] = []
    for url, rooms in stores.items():
        database = await Database.open(url)
        try:
            for room in ROOMS:
                known = await database.read(partial(schema_version, room=room))
                if known is None and room not in rooms:
                    continue
                applied = await migrate(database, room)
                done.append(
                    {
                        "schema": "saga.upgrade/v1",
                        "store": database.url,
                        "room": room,
                        "from": known,
                        "applied": applied,
                    }
                )
            if url == shell.settings.store_url:
                await _record(database, [each for each in done if each["applied"] and each["store"] == database.url])
        finally:
            await database.close()
    if shell.machine:
        shell.json(done)
        return
    table = [
        [each["store"], each["room"], each["from"] or "new", ", ".join(each["applied"]) or "up to date"]
        for each in done
    ]
    draw(shell, ["STORE", "ROOM", "WAS", "APPLIED"], table, elastic={0})
    shell.hint(f"{sum(bool(each['applied']) for each in done)} of {len(done)} rooms upgraded")


async def _record(database: Database, upgraded: list[dict[str, Any]]) -> None:
    """Write into the audit that a store was upgraded, once it can hold one."""
    from .. import audit
    from .operate import signed

    def write(connection: Connection) -> None:
        for each in upgraded:
            details = {"room": each["room"], "from": each["from"], "applied": list(each["applied"])}
            audit.record(connection, "store upgrade", signed(), outcome=audit.DONE, target="store", details=details)

    if upgraded:
        await database.write(write)


def _stores(settings: Settings, targets: tuple[str, ...]) -> dict[str, set[str]]:
    """Find the stores, with the rooms that each must have; others are upgraded where they are there."""
    from ..loading import load_parts

    found: dict[str, set[str]] = {settings.store_url: {"events", "saga"}}
    for service in load_parts(targets).services if targets else ():
        if service.store is not None:
            url = service.store if isinstance(service.store, str) else settings.service_store_url(service.name)
            found.setdefault(url, {"events", "services"})
    for path in _files(settings):
        found.setdefault(f"sqlite:{path}", set())
    return found


def _files(settings: Settings) -> list[Path]:
    """Give the SQLite files where the services' stores lie by default; what is no store has none of our rooms."""
    pattern = settings.service_store_url("*").removeprefix("sqlite:")
    if "://" in pattern:
        return []
    folder, name = Path(pattern).parent, Path(pattern).name
    ours = {"broker.db", "spans.db", "publish.db"}
    return sorted(path for path in folder.glob(name) if path.name not in ours)
