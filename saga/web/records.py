"""Pages about the audit: who changed what, when and why, page by page, and whether its chain holds."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ...events.clock import system_clock
from ...events.errors import ConfigurationError, SagaNotFound
from .. import audit
from ..cli import auditing
from ..cli.times import moment
from ..names import is_saga_type
from .asked import command, saga_path
from .rendering import Renderer
from .sources import Sources

LIMIT = 100
_VERIFIED_KEPT = 30.0
"""Seconds: a whole chain is read for it."""
_PATIENCE = 2.0
_FILTERS = ("target", "by", "action", "outcome", "since", "until")


class AuditPages:
    """Answers what is asked about the audit.

    Args:
        sources: the store.
        renderer: makes the pages.
    """

    def __init__(self, sources: Sources, renderer: Renderer) -> None:
        self._sources = sources
        self._renderer = renderer
        self._verified = sources.kept("audit verified", self._verify, _VERIFIED_KEPT)
        self._head = ""

    def routes(self) -> list[BaseRoute]:
        """Give the routes."""
        return [
            Route("/audit", self._list, methods=["GET"]),
            Route("/audit.json", self._list_json, methods=["GET"]),
            Route("/audit/verify.json", self._verify_json, methods=["GET"]),
            Route("/audit/{seq:int}.json", self._row_json, methods=["GET"]),
            Route("/audit/{seq:int}", self._row, methods=["GET"]),
        ]

    async def _list(self, request: Request) -> Response:
        rows, given, more = await self._wanted(request)
        words = [word for name, value in given.items() if name != "before" for word in _option(name, value)]
        following = {**given, "before": str(rows[-1].seq)} if more else {}
        kept = {name: value for name, value in given.items() if name != "before"}
        return self._renderer.page(
            request,
            "audit.html",
            title="Audit",
            now=system_clock(),
            here="audit",
            cli=[command("saga", "audit", "list", *words), "saga audit verify"],
            twin=f"/audit.json{f'?{request.url.query}' if request.url.query else ''}",
            rows=[(row, auditing.person(row), _place(row.target)) for row in rows],
            given=given,
            outcomes=("asked", "applied", "refused", "done"),
            first=f"/audit{f'?{urlencode(kept)}' if kept else ''}" if "before" in given else "",
            following=f"/audit?{urlencode(following)}" if more else "",
            verdict=await self._verified.soon(_PATIENCE),
        )

    async def _list_json(self, request: Request) -> Response:
        rows, given, more = await self._wanted(request)
        headers = {}
        if more:
            query = urlencode({**given, "before": str(rows[-1].seq)})
            headers["link"] = f'<{request.scope.get("root_path", "")}/audit.json?{query}>; rel="next"'
        return JSONResponse([auditing.told(row) for row in rows], headers=headers)

    async def _wanted(self, request: Request) -> tuple[list[audit.Row], dict[str, str], bool]:
        """Read a page; give it, what was asked for, and whether there are more."""
        given = {name: value.strip().replace("\0", "") for name, value in request.query_params.items() if value.strip()}
        if unknown := sorted(set(given) - {*_FILTERS, "unfolded", "before"}):
            told = f"{unknown[0][:60]!r} is no filter of the audit; there are {', '.join(_FILTERS)}, unfolded, before"
            raise ConfigurationError(told)
        before = given.get("before", "")
        if before and not (before.isascii() and before.isdigit() and len(before) < 18):
            raise ConfigurationError(f"before {before[:20]!r} is no row of the audit; write its number")
        now = system_clock()
        wanted = audit.Wanted(
            target=given.get("target", ""),
            by=given.get("by", ""),
            action=given.get("action", ""),
            outcome=given.get("outcome", ""),
            since=moment(given["since"], now, "since") if "since" in given else None,
            until=moment(given["until"], now, "until") if "until" in given else None,
            unfolded="unfolded" in given,
            before=int(before) if before else None,
        )
        rows = await self._sources.database.read(lambda c: audit.read(c, wanted, limit=LIMIT + 1))
        return rows[:LIMIT], given, len(rows) > LIMIT

    async def _row(self, request: Request) -> Response:
        row = await self._find(request)
        return self._renderer.page(
            request,
            "change.html",
            title=f"Change {row.seq}",
            now=system_clock(),
            here="audit",
            cli=[command("saga", "audit", "show", str(row.seq))],
            twin=f"/audit/{row.seq}.json",
            live=False,
            row=row,
            person=auditing.person(row),
            place=_place(row.target),
            details=[(name, auditing.text(value)) for name, value in row.details.items()],
        )

    async def _row_json(self, request: Request) -> Response:
        return JSONResponse(auditing.told(await self._find(request)))

    async def _find(self, request: Request) -> audit.Row:
        seq = min(request.path_params["seq"], 1 << 62)
        row = await self._sources.database.read(lambda c: audit.find(c, seq))
        if row is None:
            raise SagaNotFound(f"the audit has no row {seq}")
        return row

    async def _verify_json(self, request: Request) -> Response:
        return JSONResponse(auditing.told_verdict(await self._verified.get()))

    async def _verify(self) -> audit.Verdict:
        """Check the whole chain; what it ended with the last time must be in it still."""
        verdict = await self._sources.database.read(lambda c: audit.verify(audit.chain(c), head=self._head))
        if verdict.broken is None and verdict.rows:
            self._head = verdict.head
        return verdict


def _place(target: str | None) -> str:
    """Give the path of the page about what was changed; "" where there is none."""
    name = target or ""
    type_, slash, key = name.partition("/")
    if slash and key and is_saga_type(type_):
        return saga_path(name)
    pages = {"b-": "/batches", "d-": "/dead-letters"}
    return f"{pages[name[:2]]}/{quote(name, safe='')}" if name[:2] in pages else ""


def _option(name: str, value: str) -> list[str]:
    if name == "target":
        return [value]
    return ["--unfolded"] if name == "unfolded" else [f"--{name}", value]
