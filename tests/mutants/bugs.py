"""Bugs to seed: each an exact replacement in one module, as somebody might write it on a bad day.

What is replaced must stand in the module exactly once; where the code has moved on, applying the bug fails loudly, and
whoever changed the code says here how the bug looks now.
"""

from __future__ import annotations

from typing import NamedTuple


class Bug(NamedTuple):
    """One seeded bug.

    Args:
        name: what goes wrong.
        module: where, within the package.
        old, new: the text, and what stands there instead.
        seeds: within how many runs `explore` finds it.
        faults: the kinds that may happen; none: all.
        scenario: of `tests.mutants.scenarios`.
    """

    name: str
    module: str
    old: str
    new: str
    seeds: int = 25
    faults: tuple[str, ...] = ()
    scenario: str = "shop"


BUGS = (
    # ---- the coordinator's store --------------------------------------------------------------------------------
    Bug(
        "a duplicate is not dropped",
        "saga.batch",
        "if (work.id, arrival.input.id) in self._seen:",
        "if False:",
        faults=("duplicate", "kill"),
    ),
    Bug(
        "what came before its saga is forgotten",
        "saga.batch",
        "self._to_park.setdefault((target.type, target.key), []).append(row)",
        "pass",
        faults=("lag",),
    ),
    Bug(
        "what was parked is lost when the saga starts",
        "saga.batch",
        "for waiting in (*parked.pop(key, ()), *self._to_park.pop(key, ())):",
        "for waiting in self._to_park.pop(key, ()):",
        faults=("lag",),
    ),
    Bug(
        "an ignored input has no row in the history",
        "saga.batch",
        "        self._history.append(history_row(",
        '        if transition.verdict == "applied":\n            self._history.append(history_row(',
    ),
    Bug(
        "positions are saved before what they led to",
        "saga.coordinator",
        "        await lanes.apply_all(",
        "        await self._database.write(lambda c: store.save_positions(c, self.group, batch.read, {}))\n"
        "        await lanes.apply_all(",
        seeds=80,
        faults=("kill", "crash"),
    ),
    Bug(
        "commands are published before the commit",
        "saga.coordinator",
        '        failpoint("coordinator.before_commit")',
        '        self._relay.publish(rows)\n        failpoint("coordinator.before_commit")',
        seeds=100,
        faults=("store-busy", "kill"),
        scenario="watched",
    ),
    Bug(
        "timers fire before everything was read",
        "saga.timers",
        "until = min(now, until_of(instance))",
        "until = now",
        faults=("lag", "freeze"),
    ),
    # ---- the pure function --------------------------------------------------------------------------------------
    Bug(
        "the order of undo is lost",
        "saga.backward",
        "later = [self.definition.by_name[name] for name in self.definition.descendants[plan.name]]",
        "later: list[StepPlan] = []",
    ),
    Bug(
        "the pivot is ignored",
        "saga.backward",
        "return pivot.certain and pivot.state not in (*_IN_FLIGHT, StepState.DONE, StepState.SKIPPED)",
        "return True",
        faults=("lag", "duplicate"),
        scenario="tour",
    ),
    Bug(
        "a step whose outcome is unknown is not undone",
        "saga.standing",
        "return step.state in (StepState.DONE, StepState.UNKNOWN) or (",
        "return step.state is StepState.DONE or (",
    ),
    Bug(
        "a step that surely failed is undone too",
        "saga.standing",
        "return step.state in (StepState.DONE, StepState.UNKNOWN) or (",
        "return step.state in (StepState.DONE, StepState.UNKNOWN, StepState.FAILED) or (",
    ),
    Bug(
        "a late success is forgotten",
        "saga.answers",
        "            self._enter(plan, StepState.DONE, reason)\n            if self.instance.phase",
        "            self.changes.append(Change(plan.name, step.state, reason))\n            if self.instance.phase",
        faults=("lag", "gives-up"),
    ),
    Bug(
        "a saga that is opened again keeps its epoch",
        "saga.backward",
        "        self.instance.epoch += 1\n",
        "",
        seeds=40,
        faults=("lag",),
        scenario="tour",
    ),
    Bug(
        "a saga ends while an undo is unanswered",
        "saga.forward",
        "return self.instance.phase is Phase.COMPENSATING and not undoing",
        "return self.instance.phase is Phase.COMPENSATING",
    ),
    Bug(
        "the timer of an answered step fires",
        "saga.answers",
        "        step.given_up = None\n        self._clear(step)\n",
        "        step.given_up = None\n",
    ),
    Bug(
        "a step has its turn before a join is complete",
        "saga.standing",
        'if "open" in before or "failed" in before:',
        'if before and "good" not in before:',
    ),
    Bug(
        "silence sends the command again under a new id",
        "saga.elapsing",
        "        again = step.undo_sends > 0\n",
        "        again = False\n",
        faults=("freeze", "crash", "lag"),
    ),
    Bug(
        "a step is tried for ever",
        "saga.forward",
        "if retry and plan.send is not None and len(step.failures) < plan.retry.attempts:",
        "if retry and plan.send is not None:",
        scenario="trip",
    ),
    Bug(
        "a command is sent again without end",
        "saga.move",
        "return self.now + plan.resend.pause(step.sends) if step.sends < plan.resend.attempts else None",
        "return self.now + plan.resend.pause(step.sends)",
        scenario="trip",
    ),
    Bug(
        "a step is given up before its time",
        "saga.forward",
        "            step.limit_at = self.now + plan.within\n",
        "            step.limit_at = self.now + plan.within // 2\n",
    ),
    Bug(
        "a timer that is due is never reached",
        "saga.instance",
        "due = [at for step in self.steps.values() for at in step.timers()]",
        "due = [at - 1_000_000 for step in self.steps.values() for at in step.timers()]",
    ),
    Bug(
        "an optional step fails its saga",
        "saga.forward",
        "        if plan.optional or plan.final:\n",
        "        if plan.final:\n",
        scenario="trip",
    ),
    Bug(
        "an undo that its service has answered counts as unanswered",
        "saga.answers",
        "expected = [p for p in plans if self._step(p).state in (StepState.COMPENSATING, StepState.UNDO_FAILED)]",
        "expected = [p for p in plans if self._step(p).state is StepState.UNDO_FAILED]",
    ),
    # ---- commands on their way ----------------------------------------------------------------------------------
    Bug(
        "an undo does not say what it undoes",
        "saga.commands",
        "        undoes=undoes,\n",
        "        undoes=(),\n",
        faults=("lag", "gives-up"),
    ),
    Bug(
        "the outbox is not written",
        "events.outbox",
        "        _INSERT.run(connection, [_to_columns(row, now + _GRACE) for row in rows])\n",
        "",
        seeds=40,
        faults=("kill", "crash"),
        scenario="trip",
    ),
    Bug(
        "an outbox row is deleted before the broker has it",
        "events.outbox",
        '        failpoint("relay.before_send")\n',
        '        self._sent.extend(row.id for row in rows)\n        failpoint("relay.before_send")\n',
        faults=("broker-away", "torn", "kill", "crash"),
    ),
    Bug(
        "what the broker did not take is forgotten",
        "events.outbox",
        "            else:\n                for _ in batch:\n                    self._pending.popleft()\n",
        "            finally:\n                for _ in batch:\n                    self._pending.popleft()\n",
        faults=("broker-away", "torn"),
    ),
    # ---- services -----------------------------------------------------------------------------------------------
    Bug(
        "an inbox insert is dropped",
        "services.inbox",
        "    if new:\n        _INSERT.run(connection, new)\n",
        "    if new[1:]:\n        _INSERT.run(connection, new[1:])\n",
    ),
    Bug(
        "a worker commits past work in flight",
        "services.partitions",
        "            self._ledger.begin(place, *[receipt.delivery.offset for receipt in found])\n",
        "            self._ledger.begin(place, *[receipt.delivery.offset for receipt in found])\n"
        "            self._ledger.finish(place, *[receipt.delivery.offset for receipt in found])\n"
        "            self.moved.set()\n",
        faults=("kill", "crash"),
    ),
    Bug(
        "events are published before their transaction commits",
        "services.commit",
        '                failpoint("service.before_commit")\n',
        '                self._relay.publish(rows)\n                failpoint("service.before_commit")\n',
        faults=("store-busy", "kill"),
        scenario="watched",
    ),
    Bug(
        "an undo that comes first leaves no tombstone",
        "services.guard",
        '            marks[event_id] = "refused"\n        elif row.state == "claimed"',
        '            pass\n        elif row.state == "claimed"',
        faults=("lag",),
    ),
    Bug(
        "what was refused runs all the same",
        "services.guard",
        '    if row is not None and row.state in ("refused", "unknown"):\n        return "refused"\n',
        '    if row is not None and row.state in ("refused", "unknown"):\n        return "run"\n',
        faults=("lag", "gives-up"),
    ),
    Bug(
        "a claim is ignored",
        "services.guard",
        'elif row.state == "claimed" and row.until is not None and row.until > now:',
        "elif False:",
    ),
    Bug(
        "an undo is taken for empty though its step had happened",
        "services.guard",
        '        elif row.state in ("done", "unknown"):\n            happened = True\n',
        '        elif row.state in ("done", "unknown"):\n            happened = row.state == "unknown"\n',
    ),
    Bug(
        "an answer is not given again on an inbox hit",
        "services.worker",
        'again = inbox.unpack(row.answer) if row.answer is not None and verdict == "duplicate" else ()',
        "again = ()",
        faults=("duplicate",),
        scenario="tour",
    ),
    Bug(
        "another attempt of an undo that was answered gets no answer",
        "services.board",
        "        if before.answer is not None:\n            self.records += unpack(before.answer)\n",
        "",
        seeds=100,
        faults=("lag",),
        scenario="tour",
    ),
    Bug(
        "a dead letter is not written",
        "services.execution",
        "            dead_letter(job.delivery, failure, self._secrets(job)),\n",
        "",
        faults=("gives-up",),
    ),
    Bug(
        "what a handler publishes does not say what caused it",
        "events.envelope",
        '            ("causation-id", cause.id.encode()),\n',
        "",
    ),
    Bug(
        "a handler's writes are kept although it failed",
        "services.commit",
        "await (savepoint.rollback() if failed else savepoint.commit())",
        "await savepoint.commit()",
        faults=("fail-after",),
    ),
)

QUICKEST = tuple(
    bug
    for bug in BUGS
    if bug.name
    in (
        "a duplicate is not dropped",
        "an ignored input has no row in the history",
        "a step whose outcome is unknown is not undone",
        "an inbox insert is dropped",
        "what a handler publishes does not say what caused it",
    )
)
"""Those that `make test` hunts."""
