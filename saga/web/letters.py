"""Pages about dead letters: the list, and one with its payload on demand; sent again, mended, skipped, discarded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ...events.clock import system_clock
from ...events.errors import ConfigurationError, DecodeError, Refused
from ...events.event import Event
from ...services.letters import Filed, Letter, read_letters
from ..cli import letterbox, redriving
from ..cli.bodies import editable
from ..cli.publish import event_of
from ..cli.recording import Recorder
from .acting import allowed, reason_of, who_asks
from .asked import command
from .forms import MOST_FORM, read_form
from .rendering import Renderer
from .sources import Sources
from .visitors import Role, Visitors

if TYPE_CHECKING:
    from ...events.transport import Transport

LIMIT = 100
_MOST_BODY = 100_000
_MOST_EDITED = 500_000
"""Characters of a body that is mended in a form; `saga dlq edit` has no such limit."""
_MOST_MENDED_FORM = 4 * _MOST_EDITED
_KEPT = 5.0
_DONE = {"retry": Role.OPERATOR, "edit": Role.ADMIN, "skip": Role.ADMIN, "discard": Role.ADMIN}
"""What may be done about a letter, and the least role for it."""
_FILTERS = ("service", "saga", "type", "step", "error", "since")


class LetterPages:
    """Answers what is asked about dead letters.

    Args:
        sources: the broker.
        renderer: makes the pages.
        visitors: who may do what.
        events: what may be published in place of a letter's handler.
    """

    def __init__(
        self, sources: Sources, renderer: Renderer, visitors: Visitors, events: Sequence[type[Event]] = ()
    ) -> None:
        self._events = {event.spec().type: event for event in events}
        self._sources = sources
        self._renderer = renderer
        self._visitors = visitors
        self._read = sources.kept("letters", self._ask, _KEPT)

    def routes(self) -> list[BaseRoute]:
        """Give the routes."""
        return [
            Route("/dead-letters", self._list, methods=["GET"]),
            Route("/dead-letters.json", self._list_json, methods=["GET"]),
            Route("/dead-letters/{id}.json", self._letter_json, methods=["GET"]),
            Route("/dead-letters/{id}", self._letter, methods=["GET"]),
            Route("/dead-letters/{id}", self._act, methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Response:
        shown, total, given = await self._wanted(request)
        return self._renderer.page(
            request,
            "letters.html",
            title="Dead letters",
            now=system_clock(),
            here="dead-letters",
            cli=[
                command(
                    "saga", "dlq", "list", *(word for name, value in given.items() for word in _option(name, value))
                )
            ],
            twin=f"/dead-letters.json{f'?{request.url.query}' if request.url.query else ''}",
            letters=shown,
            total=total,
            given=given,
        )

    async def _list_json(self, request: Request) -> Response:
        shown, _, _ = await self._wanted(request)
        return JSONResponse([letterbox.told(each) for each in shown])

    async def _wanted(self, request: Request) -> tuple[list[Filed], int, dict[str, str]]:
        given = {name: value.strip() for name, value in request.query_params.items() if value.strip()}
        if unknown := sorted(set(given) - {*_FILTERS, "settled"}):
            raise ConfigurationError(
                f"{unknown[0][:60]!r} is no filter of dead letters; there are {', '.join(_FILTERS)}"
            )
        chosen = {("type_" if name == "type" else name): given.get(name, "") for name in _FILTERS}
        wanted = letterbox.matching(settled=bool(given.get("settled")), **chosen)
        found = [each for each in await self._read.get() if wanted(each)]
        return found[:LIMIT], len(found), given

    async def _letter(self, request: Request) -> Response:
        filed = letterbox.pick(await self._read.get(), request.path_params["id"])
        return await self._show(request, filed)

    async def _show(
        self, request: Request, filed: Filed, *, written: Mapping[str, str] | None = None, trouble: str = ""
    ) -> Response:
        """Show a letter; with what somebody has written into a form of it, and what was wrong with that."""
        letter, kind = filed.letter, (written or {}).get("kind", "")
        mending = kind == "edit" or (not trouble and request.query_params.get("edit") == "1")
        asked = mending or request.query_params.get("payload") == "1"
        body, problem = await self._body(request, letter) if asked else (None, None)
        shown = json.dumps(body, indent=2, ensure_ascii=False, default=str) if asked and problem is None else ""
        draft, unmendable = ((written or {}).get("data"), "") if kind == "edit" else (None, "")
        if mending and draft is None:
            draft, unmendable = await self._draft(request, letter)
        return self._renderer.page(
            request,
            "letter.html",
            title=f"Dead letter {letter.id}",
            now=system_clock(),
            here="dead-letters",
            cli=[command("saga", "dlq", "show", letter.id)],
            twin=f"/dead-letters/{letter.id}.json",
            live=False,
            status=400 if trouble else 200,
            letter=letter,
            filed=filed,
            told_headers=letterbox.headers_of(letter) if asked else {},
            asked=asked,
            body=shown[:_MOST_BODY],
            cut=max(0, len(shown) - _MOST_BODY),
            problem=problem,
            mending=mending,
            draft=draft,
            unmendable=unmendable,
            written=written or {},
            trouble=trouble,
            event_types=sorted(self._events),
        )

    async def _draft(self, request: Request, letter: Letter) -> tuple[str | None, str]:
        """Give a body to mend, secrets masked, or why it cannot be."""
        allowed(request, Role.ADMIN)
        try:
            async with letterbox.broker(self._sources.shell) as transport:
                text = (await editable(self._sources.settings, transport, letter)).text or ""
        except DecodeError as error:
            return None, error.message
        if len(text) > _MOST_EDITED:
            return None, f"it has {len(text):,} characters, which is too much for a page: use saga dlq edit"
        return text, ""

    async def _letter_json(self, request: Request) -> Response:
        filed = letterbox.pick(await self._read.get(), request.path_params["id"])
        told = letterbox.told(filed)
        if request.query_params.get("payload") != "1":
            return JSONResponse(told)
        body, problem = await self._body(request, filed.letter)
        told |= {"headers": letterbox.headers_of(filed.letter), "body": body, "body_error": problem}
        return Response(json.dumps(told, ensure_ascii=False, default=str), media_type="application/json")

    async def _body(self, request: Request, letter: Letter) -> tuple[Any, str | None]:
        """Decode a payload for who may see it, secrets masked."""
        allowed(request, Role.OPERATOR)
        async with letterbox.broker(self._sources.shell) as transport:
            return await letterbox.body_of(self._sources.shell, transport, letter, False)

    async def _act(self, request: Request) -> Response:
        admin = request.state.visitor is not None and request.state.visitor.role >= Role.ADMIN
        fields = await read_form(request, self._visitors, _MOST_MENDED_FORM if admin else MOST_FORM)
        kind = fields.get("kind", "")
        if kind not in _DONE:
            told = f"one cannot {kind[:40]!r} a dead letter here; there are {', '.join(_DONE)}"
            raise ConfigurationError(told)
        allowed(request, _DONE[kind])
        shell = self._sources.shell
        async with letterbox.broker(shell) as transport:
            filed = letterbox.pick(await letterbox.read(transport, ()), request.path_params["id"])
            letter = letterbox.pick_open([filed], filed.letter.id)
            try:
                await self._settle(request, transport, letter, fields)
            except (ConfigurationError, DecodeError) as error:
                if "text/html" not in request.headers.get("accept", ""):
                    raise
                return await self._show(request, filed, written=fields, trouble=error.message)
        self._read.forget()
        return RedirectResponse(f"{request.scope.get('root_path', '')}/dead-letters/{letter.id}", 303)

    async def _settle(self, request: Request, transport: Transport, letter: Letter, fields: Mapping[str, str]) -> None:
        """Do what a form says about a letter, as the command line does it.

        Raises:
            Refused: nobody would take it, its saga has ended, or nothing was changed.
            ConfigurationError, DecodeError: what was written is no good.
        """
        shell, kind = self._sources.shell, fields["kind"]
        reason, who = reason_of(fields), who_asks(allowed(request, _DONE[kind]))
        if kind in ("retry", "edit") and (refused := await redriving.refusals(shell, transport, [letter])):
            raise Refused(refused[letter.id])
        if kind == "retry":
            decide = redriving.sent_again(who.by, reason)
        elif kind == "edit":
            if not fields.get("data", "").strip():
                raise ConfigurationError("the new body is empty; nothing was sent")
            value = (await editable(self._sources.settings, transport, letter)).changed(fields["data"])
            if value is None:
                raise ConfigurationError("the body is unchanged; nothing was sent")
            decide = redriving.sent_again(who.by, f"edited: {reason}", value)
        elif kind == "skip":
            if type_ := fields.get("event", ""):
                if type_ not in self._events:
                    told = f"{type_[:60]!r} cannot be published here; name its class when saga serve is started"
                    raise ConfigurationError(told)
                event = event_of(self._events[type_], type_, fields.get("data", ""))
                await redriving.stand_in(shell, transport, letter, event)
            decide = redriving.settled_as("skipped", who.by, reason)
        else:
            decide = redriving.settled_as("discarded", who.by, reason)
        recorder = Recorder(shell, f"dlq {kind}", reason, who)
        await redriving.settle_letters(transport, [letter], decide, 1_000.0, recorder)

    async def _ask(self) -> list[Filed]:
        settings = self._sources.settings
        if settings.broker_url.startswith("memory:"):
            return []
        async with letterbox.broker(self._sources.shell) as transport:
            return await read_letters(transport)


def _option(name: str, value: str) -> list[str]:
    return ["--settled"] if name == "settled" else [f"--{name}", value]
