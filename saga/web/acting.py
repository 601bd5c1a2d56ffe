"""What people change from a page: a command in the store, with who and why, that a coordinator applies as any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from sqlalchemy import Connection, select
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ...events.errors import ConfigurationError, Refused, SagaNotFound
from ...events.problems import Fault, Problem
from .. import operators, preview, queries
from ..advance import advance
from ..audit import Who
from ..cli.operate import answered
from ..inputs import Operator, OperatorKind
from ..looking import View
from ..tables import command
from ..words import Phase, StepState
from .asked import command as line
from .asked import saga_path
from .forms import read_form
from .sources import Sources
from .visitors import Role, Visitor, Visitors

MOST_REASON = 2_000
_PATIENCE = 5.0

ROLES: Mapping[str, Role] = {
    "approve": Role.OPERATOR,
    "reject": Role.OPERATOR,
    "dismiss": Role.OPERATOR,
    "cancel": Role.OPERATOR,
    "retry-undo": Role.OPERATOR,
    "retry": Role.OPERATOR,
    "pause": Role.OPERATOR,
    "resume": Role.OPERATOR,
    "skip": Role.ADMIN,
    "mark-undone": Role.ADMIN,
    "stop": Role.ADMIN,
}
"""What may be asked for, and the least role for it; without a saga `resume` is about all of them."""

_AT_HAND = (StepState.WAITING, StepState.RETRYING, StepState.FAILED, StepState.UNKNOWN)


class Act(NamedTuple):
    """Something that one may do about a saga now.

    Args:
        kind: of the command.
        title: on its button.
        step: which; "" where it is about the saga.
        told: what it does.
        role: the least that may.
        cli: the command line.
    """

    kind: str
    title: str
    step: str
    told: str
    role: Role
    cli: str


def acts_on(view: View, now: int) -> list[Act]:
    """Say what one may do about a saga as it stands."""
    definition, instance = view.found.definition, view.found.instance
    found: list[Act] = []

    def add(kind: str, title: str, told: str, step: str = "") -> None:
        words = ["saga", kind, instance.id]
        if step and kind in ("approve", "reject", "skip"):
            words.append(step)
        elif step:
            words += ["--from" if kind == "retry" else "--step", step]
        found.append(Act(kind, title, step, told, ROLES[kind], f"{line(*words)} --reason ..."))

    for plan in definition.steps:
        step = instance.steps.get(plan.name)
        if plan.approval is not None and step is not None and step.state is StepState.WAITING:
            add("approve", f"Approve {plan.name}", f"{plan.approval} agrees: the saga goes on", plan.name)
            add("reject", f"Reject {plan.name}", "the step has failed, and the saga is undone", plan.name)
    if instance.doubts:
        add("dismiss", "Dismiss", "the event that came in vain is of no importance: the saga stays as it is")
    for name, step in instance.steps.items():
        if step.state is StepState.UNDO_FAILED:
            add("retry-undo", f"Retry the undo of {name}", "its undo is sent again", name)
            add(
                "mark-undone", f"Mark {name} as undone", "a person has undone it by hand; it cannot be taken back", name
            )

    def permitted(kind: OperatorKind, step: str | None = None) -> bool:
        asked = Operator("asked", kind, step=step)
        return advance(definition, instance, asked, now).verdict != "ignored"

    for name, step in instance.steps.items():
        if instance.phase is Phase.RUNNING and step.state in _AT_HAND:
            if step.state is not StepState.WAITING and permitted("retry", name):
                add("retry", f"Retry {name}", "its command goes out as a new attempt", name)
            if permitted("skip", name):
                add("skip", f"Skip {name}", "the saga goes on without it, as if it were optional and had failed", name)
    if permitted("pause"):
        add("pause", "Pause", "nothing is sent and timers stand still until it is resumed")
    if permitted("resume"):
        add("resume", "Resume", "it goes on from where it was paused")
    if instance.phase is Phase.RUNNING and not definition.observe_only:
        plan_ = preview.cancel_plan(definition, instance, now)
        if plan_.refused is None:
            undone = [undo.step for wave in plan_.waves for undo in wave]
            add("cancel", "Cancel", f"undoes {', '.join(undone)}" if undone else "ends it; there is nothing to undo")
    return found


class Acts:
    """Answers the forms that change something.

    Args:
        sources: the store.
        visitors: who may do what.
    """

    def __init__(self, sources: Sources, visitors: Visitors) -> None:
        self._sources = sources
        self._visitors = visitors

    def routes(self) -> list[BaseRoute]:
        """Give the routes."""
        return [Route("/act", self._act, methods=["POST"]), Route("/plan/{id:path}.json", self._plan, methods=["GET"])]

    async def _act(self, request: Request) -> Response:
        fields = await read_form(request, self._visitors)
        kind, step = fields.get("kind", ""), fields.get("step", "")
        if kind not in ROLES:
            faults = [Fault("kind", "is none")]
            raise Problem(400, "malformed-form", f"one cannot ask for {kind[:40]!r} here", "use a form of ours", faults)
        name = fields.get("id", "")
        everything = kind == "stop" or (kind == "resume" and not name)
        visitor = allowed(request, Role.ADMIN if everything else ROLES[kind])
        reason = reason_of(fields)
        database = self._sources.database
        id_: str | None = None
        if not everything:
            if "\0" in name or not name:
                raise SagaNotFound("which saga? the form names none")
            id_ = await database.read(lambda c: queries.resolve(c, name))
            found = await database.read(lambda c: queries.load(c, id_))
            if step and step not in found.instance.steps:
                raise ConfigurationError(f"{id_} has no step {step[:60]!r}")
        arguments: dict[str, Any] = {"step": step} if step else {}
        who = who_asks(visitor)
        command_id = await database.write(
            lambda c: operators.ask(c, kind, saga_id=id_, by=who, reason=reason, **arguments)
        )
        answer = await answered(database, command_id, _PATIENCE)
        self._sources.forget()
        if answer.state == operators.REFUSED:
            raise Refused(f"{kind} {id_ or ''}: {answer.result}".replace(" :", ":"))
        if "application/json" in request.headers.get("accept", ""):
            state = "queued" if answer.state == operators.PENDING else answer.state
            told = {"schema": "saga.command/v1", "command_id": command_id, "kind": kind, "id": id_, "state": state}
            return JSONResponse({**told, "result": answer.result or None}, 202 if state == "queued" else 200)
        root = request.scope.get("root_path", "")
        path = "/" if id_ is None else saga_path(id_)
        return RedirectResponse(f"{root}{path}?asked={quote(command_id)}", 303)

    async def _plan(self, request: Request) -> Response:
        database = self._sources.database
        id_ = await database.read(lambda c: queries.resolve(c, request.path_params["id"]))
        found = await database.read(lambda c: queries.load(c, id_))
        told = preview.cancel_plan(found.definition, found.instance, await database.read(database.now))
        waves = [
            [{"step": undo.step, "command": undo.command, "certain": undo.certain} for undo in wave]
            for wave in told.waves
        ]
        plan = {"refused": told.refused, "waves": waves, "untouched": list(told.untouched)}
        return JSONResponse({"schema": "saga.cancel-plan/v1", "id": id_, **plan})


def allowed(request: Request, role: Role) -> Visitor:
    """Give who asks, if they may.

    Raises:
        Problem: they may not.
    """
    visitor: Visitor | None = request.state.visitor
    if visitor is None or visitor.role < role:
        has = "nobody" if visitor is None else f"{visitor.name}, {visitor.role.word}"
        told = f"that wants the role {role.word}; you are {has}"
        raise Problem(403, "not-allowed", told, "ask somebody who has it")
    return visitor


def reason_of(fields: Mapping[str, str]) -> str:
    """Give the reason, which every change wants.

    Raises:
        Problem: there is none, or too much of it.
    """
    reason = fields.get("reason", "").strip().replace("\0", "")
    if not reason or len(reason) > MOST_REASON:
        problem = "is empty" if not reason else f"has more than {MOST_REASON} characters"
        raise Problem(
            400, "no-reason", f"the reason {problem}", "say why: it stands in the audit", [Fault("reason", problem)]
        )
    return reason


def who_asks(visitor: Visitor) -> Who:
    """Say who changes something, for the audit."""
    return Who(visitor.name, "", "web", visitor.role.word)


def became(connection: Connection, command_id: str, id_: str | None) -> str:
    """Say what became of a command that a page has asked for; "" where there is none about this saga."""
    query = select(command.c.kind, command.c.state, command.c.result, command.c.saga_id).where(
        command.c.id == command_id
    )
    row = connection.execute(query).first()
    if row is None or row.saga_id != id_:
        return ""
    if row.state == operators.PENDING:
        return f"{row.kind}: queued; a coordinator applies it as soon as one runs"
    return f"{row.kind}: {row.result or row.state}"
