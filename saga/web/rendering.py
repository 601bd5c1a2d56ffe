"""How pages are made: templates that escape everything, times and states as people read them, one frame for all."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from ...events.clock import from_rfc3339
from ..cli.glyphs import phase_look, step_look
from ..cli.times import age, show_time, span
from ..report import rfc3339
from .asked import saga_path
from .visitors import Role, Visitor, Visitors

_HERE = Path(__file__).parent
STATIC = _HERE / "static"

NAVIGATION = (
    ("overview", "/", "Overview", "o"),
    ("sagas", "/sagas", "Sagas", "s"),
    ("approvals", "/approvals", "Approvals", "a"),
    ("dead-letters", "/dead-letters", "Dead letters", "d"),
    ("batches", "/batches", "Batches", "b"),
    ("audit", "/audit", "Audit", "u"),
    ("catalog", "/catalog", "Catalog", "c"),
    ("definitions", "/definitions", "Definitions", "v"),
)
"""Pages that stand in the head of each: name, path, title, and the key behind `g` that leads there."""


class Renderer:
    """Makes pages.

    Args:
        visitors: who may do what, and what marks our own forms.
    """

    def __init__(self, visitors: Visitors) -> None:
        self._visitors = visitors
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "pages"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(
            {"age": _age, "moment": _moment, "span": span, "ms": _ms, "phase": _phase, "step_glyph": _step_glyph}
        )
        self._version = _version()

    def page(
        self,
        request: Request,
        template: str,
        *,
        title: str,
        now: int,
        here: str = "",
        cli: Sequence[str] = (),
        twin: str = "",
        status: int = 200,
        live: bool = True,
        headers: dict[str, str] | None = None,
        **told: Any,
    ) -> HTMLResponse:
        """Render a page.

        Args:
            request: what was asked.
            template: its file's name.
            title: of the page.
            now: the store's clock, microseconds.
            here: its name in the navigation.
            cli: command lines that show the same.
            twin: path of the same as JSON.
            status: of the answer.
            live: look again when something changes.
            headers: of the answer.
            told: what the template shows.
        """
        root = request.scope.get("root_path", "")
        visitor: Visitor | None = request.state.visitor
        visit: str = request.state.visit
        made = self._templates.get_template(template).render(
            root=root,
            title=title,
            now=now,
            now_rfc3339=rfc3339(now),
            here=here,
            cli=list(cli),
            twin=f"{root}{twin}" if twin else "",
            live=live,
            navigation=NAVIGATION,
            visitor=visitor,
            operator=visitor is not None and visitor.role >= Role.OPERATOR,
            admin=visitor is not None and visitor.role >= Role.ADMIN,
            guarded=self._visitors.guarded,
            by_token=self._visitors.by_token,
            stamp=self._visitors.stamp(visit, visitor),
            version=self._version,
            saga_path=lambda id_: root + saga_path(id_),
            **told,
        )
        return HTMLResponse(made, status, headers)


def _age(at: int | str | None, now: int) -> str:
    if at is None:
        return "-"
    return age(now - (from_rfc3339(at) if isinstance(at, str) else at))


def _moment(at: int | str | None, now: int) -> str:
    if at is None:
        return "-"
    return show_time(from_rfc3339(at) if isinstance(at, str) else at, "local", now)


def _ms(milliseconds: int | None) -> str:
    return "-" if milliseconds is None else span(milliseconds * 1_000)


def _phase(phase: str, person: bool = False) -> str:
    return phase_look(phase, waits_for_person=person).glyph


def _step_glyph(state: str) -> str:
    return step_look(state).glyph


def _version() -> str:
    """Name what lies in `static`, so that a browser keeps it until it changes."""
    found = blake2b(digest_size=6)
    for path in sorted(STATIC.iterdir()):
        found.update(path.read_bytes())
    return found.hexdigest()
