"""The story of a run, for people: what was said, what went wrong, what became of the sagas."""

from __future__ import annotations

from ....events.clock import format_duration, from_datetime
from ..harness import BEGIN
from .simulation import Simulation

_MOST = 120


def story(run: Simulation) -> str:
    """Tell a run, line by line in the order in which things happened."""
    begin = from_datetime(BEGIN)
    lines = [(at, 0, what) for at, what in run.told]
    for sent in run.broker.log:
        type_ = sent.header("ce_type") or "record"
        key = (sent.record.key or b"").decode(errors="replace")
        again = "" if sent.by else " (a copy)"
        lines.append((sent.at, 1, f"{sent.by or 'the broker'}: {type_} {key} on {sent.record.topic}{again}"))
    lines.sort(key=lambda line: line[0])
    told = [f"  +{format_duration(max(0, at - begin)):<10} {what}" for at, _, what in lines]
    if len(told) > _MOST:
        told = [*told[: _MOST // 2], f"  ... {len(told) - _MOST} lines ...", *told[-_MOST // 2 :]]
    plan = run.plan
    stands = [f"{plan.coordinators} coordinators"] if plan.coordinators > 1 else []
    stands += [f"{plan.doubled} runs twice"] if plan.doubled else []
    head = [f"seed {run.seed}{': ' + ', '.join(stands) if stands else ''}"]
    head += [f"  fault: {fault}{'' if fault in run.troubles.hits else ' (did not happen)'}" for fault in plan.faults]
    return "\n".join([*head, *told, *_sagas(run)])


def _sagas(run: Simulation) -> list[str]:
    if not run.parts.sagas:
        return []
    rows = run.saga_disk.raw.execute("SELECT id, phase, conditions, state FROM choreo_saga ORDER BY started_at, id")
    lines = []
    for id_, phase, conditions, _ in rows.fetchall():
        lines.append(f"  {id_} is {phase}{f' [{conditions}]' if conditions else ''}")
        entries = run.saga_disk.raw.execute(
            "SELECT seq, type, kind, verdict, reason, changes FROM choreo_history WHERE saga_id = ? ORDER BY seq",
            (id_,),
        )
        for seq, type_, kind, verdict, reason, changes in entries.fetchall():
            said = changes if changes != "[]" else f"{verdict} {reason}"
            lines.append(f"    {seq}. {type_ or kind}: {said}")
    return lines
