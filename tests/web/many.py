"""Very many sagas in a store, written straight into its table: what lists and the overview have to go through."""

from __future__ import annotations

import json
import random
from typing import Any

from sqlalchemy import Connection, insert

from choreo.saga.instance import Instance
from choreo.saga.tables import saga
from choreo.saga.words import Phase, StepState

HOUR = 3_600_000_000
_SHARES = (
    (Phase.COMPLETED, 940),
    (Phase.COMPENSATED, 30),
    (Phase.RUNNING, 20),
    (Phase.FAILED, 5),
    (Phase.COMPENSATING, 3),
    (Phase.CANCELLED, 2),
)


def fill(connection: Connection, count: int, now: int, *, version: int, hash_: str, seed: int = 1) -> None:
    """Write sagas of the type `order` of the last 30 days: 2 % open, 0.5 % failed, 3 % undone, states of full size.

    Args:
        connection: within a write.
        count: how many.
        now: the newest of their times, microseconds.
        version, hash_: of the definition that they run under.
        seed: the same one makes the same sagas.
    """
    chance = random.Random(seed)
    phases, weights = [phase for phase, _ in _SHARES], [share for _, share in _SHARES]
    rows: list[dict[str, Any]] = []
    for number in range(count):
        phase = chance.choices(phases, weights)[0]
        started = now - int(30 * 24 * HOUR * (count - number) / count)
        took = chance.randrange(1_000_000, 60_000_000)
        rows.append(_row(number, phase, started, started + took, version, hash_, chance))
        if len(rows) == 1_000:
            connection.execute(insert(saga), rows)
            rows = []
    if rows:
        connection.execute(insert(saga), rows)


def _row(
    number: int, phase: Phase, started: int, updated: int, version: int, hash_: str, chance: random.Random
) -> dict[str, Any]:
    key = f"{number:07d}"
    instance = Instance("order", key, 1, version, hash_, phase=phase, started_at=started)
    conditions = ""
    if phase in (Phase.FAILED, Phase.COMPENSATED, Phase.COMPENSATING):
        step = chance.choice(("reserve", "charge"))
        instance.cause = {"step": step, "error": chance.choice(("CardDeclined", "Timeout")), "at": updated}
    elif phase is Phase.COMPLETED and number % 20 == 0:
        conditions = "Late"
    elif phase is Phase.RUNNING and number % 10 == 0:
        conditions = "WaitingForPerson"
    state = json.loads(instance.to_json())
    state["steps"] = {f"step-{each}": {"state": StepState.DONE, "message": "x" * 200} for each in range(8)}
    return {
        "id": f"order/{key}",
        "type": "order",
        "key": key,
        "run": 1,
        "version": version,
        "phase": phase.value,
        "step": None if phase.ended else "charge",
        "error": (instance.cause or {}).get("error"),
        "conditions": conditions,
        "seq": 5,
        "epoch": 0,
        "started_at": started,
        "updated_at": updated,
        "ended_at": updated if phase.ended else None,
        "next_due": None,
        "limit_due": None,
        "waits_since": None if phase.ended else started,
        "traced": True,
        "state": json.dumps(state),
    }
