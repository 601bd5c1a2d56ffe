"""Signing in with a token, and out."""

from __future__ import annotations

from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ...events.clock import system_clock
from ...events.errors import ConfigurationError
from ...events.problems import Problem
from .forms import read_form
from .guard import cookie
from .rendering import Renderer
from .visitors import Visitors, new_visit


class Entrance:
    """Answers `/login` and `/logout`.

    Args:
        visitors: knows the tokens.
        renderer: makes the page.
    """

    def __init__(self, visitors: Visitors, renderer: Renderer) -> None:
        self._visitors = visitors
        self._renderer = renderer

    def routes(self) -> list[BaseRoute]:
        """Give the routes."""
        return [
            Route("/login", self._page, methods=["GET"]),
            Route("/login", self._sign_in, methods=["POST"]),
            Route("/logout", self._sign_out, methods=["POST"]),
        ]

    async def _page(self, request: Request) -> Response:
        return self._form(request, request.query_params.get("next", ""))

    def _form(self, request: Request, back: str, wrong: str = "", status: int = 200) -> Response:
        return self._renderer.page(
            request,
            "login.html",
            title="Sign in",
            now=system_clock(),
            live=False,
            status=status,
            back=back,
            wrong=wrong,
        )

    async def _sign_in(self, request: Request) -> Response:
        fields = await read_form(request, self._visitors)
        try:
            visit = self._visitors.sign_in(fields.get("token", ""))
        except ConfigurationError as error:
            raise Problem(429, "too-often", error.message, "wait", headers={"retry-after": "60"}) from None
        if visit is None:
            return self._form(request, fields.get("next", ""), "Nobody has this token.", 401)
        root = request.scope.get("root_path", "")
        answer = RedirectResponse(f"{root}{_own(fields.get('next', ''))}", 303)
        answer.headers.append("set-cookie", cookie(request.scope, visit))  # another visit: the old name may be known
        return answer

    async def _sign_out(self, request: Request) -> Response:
        await read_form(request, self._visitors)
        self._visitors.sign_out(request.state.visit)
        answer = RedirectResponse(f"{request.scope.get('root_path', '')}/login", 303)
        answer.headers.append("set-cookie", cookie(request.scope, new_visit()))
        return answer


def _own(back: str) -> str:
    """Give a path of ours: where somebody wanted to go, if that is here."""
    plain = unquote(back)
    if not plain.startswith("/") or plain.startswith(("//", "/\\")) or any(ord(each) < 32 for each in plain):
        return "/"
    return back
