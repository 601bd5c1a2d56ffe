"""`saga topics`: what there is, and making what services and sagas need."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from ...events.errors import ConfigurationError
from .recording import Recorder
from .shell import Shell
from .tables import draw

if TYPE_CHECKING:
    from ...events.transport import TopicSpec, Transport

TOPIC = "saga.topic/v1"

topics = App(name="topics", help="List or create topics.", help_format="plaintext")


@topics.command(name="list")
async def list_(*, shell: Annotated[Shell, Parameter(parse=False)]) -> None:
    """List the topics of the broker (of this prefix, where one is set)."""
    from ...events.transports import connect

    settings = shell.settings
    async with connect(settings.broker_url, settings) as transport:
        found = await transport.topics()
        ends = await _ends(transport, sorted(found)) if found else {}
    rows = [
        {"schema": TOPIC, "topic": name, "partitions": info.partitions, "written": ends.get(name, 0)}
        for name, info in sorted(found.items())
    ]
    if shell.machine:
        shell.json(rows)
    elif shell.output == "id":
        shell.lines(str(row["topic"]) for row in rows)
    else:
        table = [[str(row["topic"]), str(row["partitions"]), f"{row['written']:,}"] for row in rows]
        draw(shell, ["TOPIC", "PARTITIONS", "WRITTEN"], table, right={1, 2})
        shell.hint(f"{len(rows)} topics on {settings.broker_url}")


@topics.command
def apply(
    *targets: str,
    partitions: int = 4,
    replication: int = 0,
    reason: Annotated[str, Parameter(show_default=False)] = "",
    dry_run: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Create every topic that these services and sagas need: their events', their dead letters', and choreo's own.

    Topics that exist are left as they are. CHOREO_TOPIC_PREFIX or --prefix keeps environments apart.

    Args:
        targets: as for `saga run`.
        partitions: of each new topic; equal counts let one coordinator meet all events of a saga.
        replication: replicas of each new topic; 0 leaves it to the broker.
        reason: why, for the audit.
        dry_run: only say what would be created.
    """
    from ..loading import load_parts

    if not targets:
        raise ConfigurationError("whose topics? name services and sagas, as in saga topics apply shop.py")
    if not 1 <= partitions <= 10_000:
        raise ConfigurationError(f"--partitions {partitions}: a topic has 1 to 10,000")
    if replication < 0:
        raise ConfigurationError(f"--replication {replication}: write 1 or more, or 0 for the broker's own default")
    wanted = load_parts(targets).topics(partitions=partitions, replication=replication)
    asyncio.run(_apply(shell, wanted, partitions, reason, dry_run))


async def _apply(shell: Shell, wanted: list[TopicSpec], partitions: int, reason: str, dry_run: bool) -> None:
    from ...events.transports import connect

    settings = shell.settings
    async with connect(settings.broker_url, settings) as transport:
        there = await transport.topics()
        missing = [spec for spec in wanted if spec.name not in there]
        if missing and not dry_run:
            await transport.create_topics(missing)
            await Recorder(shell, "topics apply", reason).done(
                [(spec.name, {"partitions": spec.partitions}) for spec in missing]
            )
    new = {spec.name for spec in missing}
    rows = [
        {
            "schema": TOPIC,
            "topic": spec.name,
            "partitions": spec.partitions if spec.name in new else there[spec.name].partitions,
            "compacted": spec.compacted,
            "created": spec.name in new and not dry_run,
            "missing": spec.name in new and dry_run,
        }
        for spec in wanted
    ]
    if shell.machine:
        shell.json(rows)
        return
    word = "missing" if dry_run else "created"
    if shell.output == "id":
        shell.lines(spec.name for spec in missing)
    else:
        table = [[str(row["topic"]), str(row["partitions"]), word if row[word] else "exists"] for row in rows]
        draw(shell, ["TOPIC", "PARTITIONS", ""], table, right={1})
    if prefix := settings.topic_prefix:
        shell.hint(f"each name begins with {prefix!r} on the broker")
    shell.hint(f"{len(new)} of {len(rows)} topics {word} on {settings.broker_url}")
    uneven = sorted({f"{row['topic']} ({row['partitions']})" for row in rows if _uneven(row, partitions)})
    if uneven:
        shell.hint(f"⚠ other partition counts than {partitions}: {', '.join(uneven)}")


def _uneven(row: dict[str, object], partitions: int) -> bool:
    return not row["compacted"] and row["partitions"] != partitions


async def _ends(transport: Transport, names: list[str]) -> dict[str, int]:
    ends: dict[str, int] = {}
    for place, offset in (await transport.end_offsets(names)).items():
        ends[place.topic] = ends.get(place.topic, 0) + offset
    return ends
