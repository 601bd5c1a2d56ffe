"""What services owe a saga, judged at the end of a run: answers, steps that stay undone, and undos that wait (R4, R5).

The end of an inbox does not tell what it held meanwhile, so these rules also ask which handler was running when.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import select

from ....events.envelope import Delivery, Envelope, read_envelope
from ....services.inbox import inbox, reference
from ....services.service import Handler, Service
from .broker import Sent
from .simulation import Simulation, Violation
from .troubles import Call

_Rows = Mapping[tuple[str, str], tuple[str, int]]
"""State and time of each row of an inbox, by handler and event id."""


def judge_participants(run: Simulation) -> None:
    """Judge what every service with a store did with the commands that it read.

    Raises:
        Violation: with the name of the rule and what broke it.
    """
    if not run.parts.sagas:
        return
    # A clock that jumps makes claims run out, and does not tell what came first.
    steady = not any(fault.kind.startswith("clock") for fault in run.plan.faults)
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in run.troubles.ran:
        calls[call.handler].append(call)
    for name, service in run.services.items():
        if service.store is None:
            continue
        with run.disks[name].reader.connect() as connection:
            rows = {(row.handler, row.event_id): (row.state, row.at) for row in connection.execute(select(inbox))}
        for handler in service.handlers:
            commands = _commands(run.broker.log, handler)
            _answered(run.broker.log, handler, commands, rows)
            if handler.undoes is not None:
                undos = {envelope.id: envelope for _, envelope in commands}
                _stays_undone(handler, handler.undoes, undos, rows)
                if steady:
                    _waits(run, service, handler, undos, calls)
            if steady:
                _refused(handler, rows, calls[handler.full_name])


def _commands(log: Sequence[Sent], handler: Handler) -> list[tuple[int, Envelope]]:
    """List every copy of every command of a saga that a handler reads, with its place in the log."""
    wanted = {(event.spec().topic, event.spec().type) for event in handler.events}
    found = [each for each in log if (each.record.topic, each.header("ce_type")) in wanted]
    read = [(each.number, _envelope(each)) for each in found if each.header("saga-attempt")]
    return [(number, envelope) for number, envelope in read if reference(envelope) is not None]


def _envelope(sent: Sent) -> Envelope:
    record = sent.record
    return read_envelope(
        Delivery(record.topic, 0, sent.number, sent.at // 1_000, record.key, record.value, tuple(record.headers))
    )


def _answered(log: Sequence[Sent], handler: Handler, commands: Sequence[tuple[int, Envelope]], rows: _Rows) -> None:
    """V1: each copy of a command that was obeyed is answered: whoever sent it again may not know the first answer."""
    if not handler.signature.produces or handler.signature.silent:
        return
    attempts: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    for _, envelope in commands:
        attempts[reference(envelope), envelope.type].add(envelope.id)
    told = {
        each.header("causation-id"): each.number for each in log if each.header("ce_source") == handler.service
    }  # the last answer to each
    for number, envelope in commands:
        state, _ = rows.get((handler.full_name, envelope.id), ("", 0))
        if state not in ("done", "empty"):
            continue  # refused, or given up: the dead letters say so
        same = attempts[reference(envelope), envelope.type] if handler.undoes is not None else {envelope.id}
        if max((told.get(id_, -1) for id_ in same), default=-1) < number:
            what = f"{envelope.type} {envelope.id} for {envelope.saga_id}"
            raise Violation("V1", f"{handler.full_name} has obeyed {what}, and did not answer each time that it came")


def _stays_undone(handler: Handler, forward: Handler, undos: Mapping[str, Envelope], rows: _Rows) -> None:
    """R4: an undo that found nothing leaves a mark for each event of its step, and nothing of the step runs later."""
    for id_, envelope in undos.items():
        # A later attempt that finds what the first one has answered adds no marks.
        if rows.get((handler.full_name, id_), ("", 0))[0] != "empty" or envelope.saga_attempt != 1:
            continue
        step = reference(envelope)
        for event_id in (*envelope.undoes, *((step,) if step is not None else ())):
            state, _ = rows.get((forward.full_name, event_id), ("", 0))
            what = f"{envelope.type} for {envelope.saga_id} had nothing to undo"
            if not state:
                raise Violation("R4", f"{what}, and left {forward.full_name} no mark under {event_id}")
            if state == "done":
                raise Violation("R4", f"{what}, and {forward.full_name} ran all the same")


def _refused(handler: Handler, rows: _Rows, calls: Sequence[Call]) -> None:
    """R4: what was refused does not run."""
    for call in calls:
        state, at = rows.get((handler.full_name, call.event_id), ("", 0))
        if state == "refused" and call.at > at:
            raise Violation("R4", f"{handler.full_name} ran on {call.event_id}, which had been refused")


def _waits(
    run: Simulation,
    service: Service,
    handler: Handler,
    undos: Mapping[str, Envelope],
    calls: Mapping[str, Sequence[Call]],
) -> None:
    """R4: an undo does not begin while the step that it undoes is under way, as long as the step's claim holds."""
    forward = handler.undoes
    assert forward is not None
    if not calls[handler.full_name]:
        return
    steps = {envelope.id: reference(envelope) for _, envelope in _commands(run.broker.log, forward)}
    for undo in calls[handler.full_name]:
        envelope = undos.get(undo.event_id)
        if envelope is None:
            continue
        step = reference(envelope)
        for call in calls[forward.full_name]:
            meant = call.event_id in envelope.undoes or (step is not None and steps.get(call.event_id) == step)
            if not meant or call.ended is None or not call.number < undo.number < call.ended:
                continue
            if undo.at - call.at >= service.claim or _taken_over(call, undo.number, calls[forward.full_name]):
                continue
            what = f"{handler.full_name} began to undo for {envelope.saga_id}"
            raise Violation("R4", f"{what} while {forward.full_name} was still at it")


def _taken_over(call: Call, until: int, others: Sequence[Call]) -> bool:
    """Whether another process took the event over meanwhile, as from one that is taken for dead."""
    return any(
        other.event_id == call.event_id and other.process != call.process and call.number < other.number < until
        for other in others
    )
