"""`saga ignored`: what was read and changed no saga, so that nothing disappears without a trace."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from .shell import Shell


async def ignored(*, shell: Annotated[Shell, Parameter(parse=False)]) -> None:
    """Show what was read and changed no saga, counted by reason, and the events that wait for their saga."""
    from .. import queries
    from ..report import rfc3339
    from .tables import draw
    from .times import show_time

    async with shell.sagas() as database:
        rows, waiting, now = await database.read(
            lambda c: (queries.read_ignored(c), queries.count_parked(c), database.now(c))
        )
    if shell.machine:
        shell.json(
            {
                "schema": "saga.ignored/v1",
                "ignored": [
                    {
                        "saga_type": row["saga_type"] or None,
                        "topic": row["topic"],
                        "event_type": row["event_type"] or None,
                        "reason": row["reason"],
                        "count": row["count"],
                        "first_at": rfc3339(row["first_at"]),
                        "last_at": rfc3339(row["last_at"]),
                        "last_event_id": row["last_event_id"],
                    }
                    for row in rows
                ],
                "waiting": [
                    {"saga_type": type_, "event_type": event_type, "count": count, "oldest_at": rfc3339(oldest)}
                    for (type_, event_type), (count, oldest) in waiting.items()
                ],
            }
        )
        return
    style = shell.time or "relative"
    if rows:
        headers = ["COUNT", "TOPIC", "EVENT", "SAGA", "REASON", "LAST"]
        table = [
            [
                f"{row['count']:,}",
                row["topic"],
                row["event_type"] or "-",
                row["saga_type"] or "-",
                row["reason"],
                show_time(row["last_at"], style, now),
            ]
            for row in rows
        ]
        draw(shell, headers, table, right={0}, elastic={4})
    for (type_, event_type), (count, oldest) in waiting.items():
        shell.lines(
            [f"{count:,} {event_type} wait for their {type_}, the oldest since {show_time(oldest, style, now)}"]
        )
    total, parked = sum(row["count"] for row in rows), sum(count for count, _ in waiting.values())
    shell.hint(f"{total:,} events changed nothing · {parked:,} wait for their saga")
