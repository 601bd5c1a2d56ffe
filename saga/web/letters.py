"""Pages about dead letters: the list, and one with its payload on demand; sent again or discarded with a reason."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ...events.clock import system_clock
from ...events.errors import ConfigurationError, Refused
from ...events.ids import new_id
from ...services.letters import Filed, Letter, read_letters, redrive, settlement
from ..cli import letterbox, redriving
from ..cli.recording import Recorder
from .acting import allowed, reason_of, who_asks
from .asked import command
from .forms import read_form
from .rendering import Renderer
from .sources import Sources
from .visitors import Role, Visitors

LIMIT = 100
_MOST_BODY = 100_000
_KEPT = 5.0
_FILTERS = ("service", "saga", "type", "step", "error", "since")


class LetterPages:
    """Answers what is asked about dead letters.

    Args:
        sources: the broker.
        renderer: makes the pages.
        visitors: who may do what.
    """

    def __init__(self, sources: Sources, renderer: Renderer, visitors: Visitors) -> None:
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
        asked = request.query_params.get("payload") == "1"
        body, problem = await self._body(request, filed.letter) if asked else (None, None)
        shown = json.dumps(body, indent=2, ensure_ascii=False, default=str) if asked and problem is None else ""
        return self._renderer.page(
            request,
            "letter.html",
            title=f"Dead letter {filed.letter.id}",
            now=system_clock(),
            here="dead-letters",
            cli=[command("saga", "dlq", "show", filed.letter.id)],
            twin=f"/dead-letters/{filed.letter.id}.json",
            live=False,
            letter=filed.letter,
            filed=filed,
            told_headers=letterbox.headers_of(filed.letter) if asked else {},
            asked=asked,
            body=shown[:_MOST_BODY],
            cut=max(0, len(shown) - _MOST_BODY),
            problem=problem,
        )

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
        fields = await read_form(request, self._visitors)
        kind = fields.get("kind", "")
        visitor = allowed(request, Role.OPERATOR if kind == "retry" else Role.ADMIN)
        if kind not in ("retry", "discard"):
            raise ConfigurationError(f"one cannot {kind[:40]!r} a dead letter here; retry it, or discard it")
        reason = reason_of(fields)
        shell, who = self._sources.shell, who_asks(visitor)
        async with letterbox.broker(shell) as transport:
            filed = letterbox.pick(await letterbox.read(transport, ()), request.path_params["id"])
            letter = filed.letter
            if filed.settled is not None:
                raise Refused(f"{letter.id} was {filed.settled.state} by {filed.settled.by} at {filed.settled.at}")

            def retried(each: Letter, now: int) -> Any:
                replay = new_id()
                told = settlement(each, "retried", at=now, by=who.by, reason=reason, replay_id=replay)
                return redrive(each, replay), told

            def discarded(each: Letter, now: int) -> Any:
                return None, settlement(each, "discarded", at=now, by=who.by, reason=reason)

            if kind == "retry" and (refused := await redriving.refusals(shell, transport, [letter])):
                raise Refused(refused[letter.id])
            recorder = Recorder(shell, f"dlq {kind}", reason, who)
            decide = retried if kind == "retry" else discarded
            await redriving.settle_letters(transport, [letter], decide, 1_000.0, recorder)
        self._read.forget()
        return RedirectResponse(f"{request.scope.get('root_path', '')}/dead-letters/{letter.id}", 303)

    async def _ask(self) -> list[Filed]:
        settings = self._sources.settings
        if settings.broker_url.startswith("memory:"):
            return []
        async with letterbox.broker(self._sources.shell) as transport:
            return await read_letters(transport)


def _option(name: str, value: str) -> list[str]:
    return ["--settled"] if name == "settled" else [f"--{name}", value]
