"""What stands before every page: who asks, from where, within which limits; and what every answer says to browsers."""

from __future__ import annotations

from collections.abc import Iterable
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...events.problems import PROBLEM_JSON, Fault, Problem
from .visitors import SESSION_SECONDS, Visitors, new_visit

VISIT = "choreo_visit"
"""The cookie that names a visit: who signed in under it, and which forms are its own."""

_MOST_URL = 8_000
_OPEN = ("/login", "/health")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # not "no-referrer": with that a browser says `Origin: null` of our own forms
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class Guard:
    """An ASGI app around the pages.

    Args:
        app: the pages.
        visitors: who may come.
        hosts: names under which it may be called, with or without a port; None takes any.
    """

    def __init__(self, app: ASGIApp, visitors: Visitors, hosts: Iterable[str] | None) -> None:
        self._app = app
        self._visitors = visitors
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _visit(Headers(scope=scope))
        fresh = "" if visit else new_visit()
        scope.setdefault("state", {})
        scope["state"]["visit"] = visit or fresh

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
                if fresh and "set-cookie" not in headers and not _path(scope).startswith("/static/"):
                    headers.append("set-cookie", cookie(scope, fresh))
            await send(message)

        try:
            answer = self._refusal(scope)
        except Problem as problem:
            answer = refusal(scope, problem)
        if answer is not None:
            await answer(scope, receive, sent)
            return
        try:
            await self._app(scope, receive, sent)
        except Exception:  # noqa: S110 - it was answered and logged; Starlette raises it again for servers
            pass

    def _refusal(self, scope: Scope) -> Response | None:
        """Give the answer to who may not go on; None lets them.

        Raises:
            Problem: the request is refused.
        """
        request = Request(scope)
        raw: bytes = scope.get("raw_path") or b""
        if len(raw) + len(scope["query_string"]) > _MOST_URL:
            raise Problem(414, "too-long", f"the address has more than {_MOST_URL} characters", "ask for less")
        if scope["method"] not in ("GET", "HEAD", "POST"):
            raise Problem(405, "method-not-allowed", f"{scope['method'][:20]} is not answered", "use GET or POST")
        self._check_host(request.headers.get("host", ""))
        path = _path(scope)
        authorization = request.headers.get("authorization", "")
        address = request.client.host if request.client is not None else ""
        bearer = self._visitors.told_by_token(authorization)
        visitor = bearer or (
            self._visitors.told_by_proxy(address, request.headers)
            or self._visitors.told_by_session(scope["state"]["visit"])
            or self._visitors.local
        )
        scope["state"]["visitor"] = visitor
        scope["state"]["bearer"] = bearer is not None
        if scope["method"] == "POST" and bearer is None:
            check_origin(request)
        if visitor is None and path not in _OPEN and not path.startswith("/static/"):
            return self._unknown(scope, path)
        return None

    def _unknown(self, scope: Scope, path: str) -> Response:
        if self._visitors.by_token and scope["method"] == "GET" and _wants_page(scope):
            query = scope["query_string"].decode("latin-1")
            back = quote(path + (f"?{query}" if query else ""), safe="/")
            return RedirectResponse(f"{scope.get('root_path', '')}/login?next={back}", 303)
        told = "the web view does not know who asks"
        remedy = "send Authorization: Bearer TOKEN with a token of CHOREO_WEB_TOKENS, or come through the proxy"
        return refusal(scope, Problem(401, "not-signed-in", told, remedy, headers={"www-authenticate": "Bearer"}))

    def _check_host(self, host: str) -> None:
        """Refuse what a web page's script sends to a name that was made to lead here (DNS rebinding)."""
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if self._hosts is not None and not {name.lower(), host.lower()} & self._hosts:
            told = f"this web view is called {' or '.join(sorted(self._hosts))}"
            remedy = "call it so, or name it in CHOREO_WEB_HOSTS"
            raise Problem(403, "wrong-host", told, remedy, [Fault("host", "is another")])


def check_origin(request: Request) -> None:
    """Refuse a change that another page asks for.

    Raises:
        Problem: it does not come from a page of ours.
    """
    origin = request.headers.get("origin")
    ours = (
        request.headers.get("sec-fetch-site") == "same-origin"
        if origin is None
        else urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower() != ""
    )
    if not ours:
        told = "the request does not come from a page of this web view"
        raise Problem(403, "wrong-origin", told, "use its own pages", [Fault("origin", "is another")])


def cookie(scope: Scope, visit: str) -> str:
    """Write the cookie of a visit; only this server and no script sees it."""
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    path = f"{scope.get('root_path', '')}/"
    return f"{VISIT}={visit}; Path={path}; HttpOnly; SameSite=Strict; Max-Age={SESSION_SECONDS}{secure}"


def refusal(scope: Scope, problem: Problem) -> Response:
    """Tell a refusal in the form that was asked for."""
    headers = dict(problem.headers)
    if _wants_page(scope):
        text = f"{problem.detail}\n{problem.remedy}\n"
        return PlainTextResponse(text, problem.status, headers)
    body: dict[str, Any] = problem.body()
    return JSONResponse(body, problem.status, headers, media_type=PROBLEM_JSON)


def _wants_page(scope: Scope) -> bool:
    return "text/html" in Headers(scope=scope).get("accept", "") and not _path(scope).endswith(".json")


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) or "/"


def _visit(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")[:4_000]).get(VISIT)
    except Exception:  # a cookie that somebody else has set may be anything
        return ""
    return found.value if found is not None and len(found.value) == len(new_visit()) else ""
