"""Which sagas are stuck, as the coordinators have told in alerts and as still holds."""

from __future__ import annotations

from sqlalchemy import Connection, select

from .alerts import holds
from .instance import Instance
from .tables import alert, saga

_MOST = 1_000


def stuck_sagas(connection: Connection) -> frozenset[str]:
    """Name the sagas that are stuck; of very many the thousand that were told last.

    Args:
        connection: within a read.
    """
    query = select(saga.c.state, alert.c.id, alert.c.step).join(saga, saga.c.id == alert.c.saga)
    query = query.where(alert.c.kind == "Stuck", alert.c.step.is_not(None), saga.c.ended_at.is_(None))
    found = connection.execute(query.order_by(alert.c.at.desc(), alert.c.id).limit(_MOST))
    told = ((Instance.from_json(state), id_, step) for state, id_, step in found)
    return frozenset(instance.id for instance, id_, step in told if holds(instance, id_, step))
