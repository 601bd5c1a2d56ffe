"""`saga graph`: a saga's steps as a picture, of a definition or of one instance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ...events.errors import ConfigurationError, SagaNotFound
from .shell import Shell
from .suggesting import SagaName

if TYPE_CHECKING:
    from ..graph import Graph

Form = Literal["tree", "mermaid", "svg"]


async def graph(
    what: SagaName,
    /,
    *,
    form: Annotated[Form | None, Parameter(name=["--as"], show_default=False)] = None,
    out: Annotated[Path | None, Parameter(show_default=False)] = None,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Draw the steps of a saga and what comes before what; of one instance with the state of each.

    For example: saga graph fulfilment/4711 --out order.svg

    Args:
        what: a saga (type/key or its key), a type that the store knows, or module:Saga of code that never ran.
        form: tree, mermaid or svg; default: what the ending of --out says, else tree.
        out: a file instead of standard output.
    """
    from ..graph import as_json, mermaid, svg, text

    drawn = await _graph(shell, what)
    if shell.machine:
        shell.json(as_json(drawn))
        return
    chosen: Form = "mermaid" if shell.output == "mermaid" else form or _form_of(out)
    lines = {"tree": text, "mermaid": mermaid, "svg": svg}[chosen](drawn)
    if out is None:
        shell.lines(lines)
        return
    _write(out, lines)
    shell.hint(f"{chosen} of {drawn.title} written to {out}")


async def _graph(shell: Shell, what: str) -> Graph:
    from .. import queries
    from ..graph import graph_of
    from ..loading import load_parts
    from ..names import is_saga_type

    if ":" in what and not what.startswith("@"):
        sagas = load_parts([what]).sagas
        if len(sagas) != 1:
            raise ConfigurationError(f"{what} is {len(sagas)} sagas; name one, as in saga graph shop.py:Fulfilment")
        return graph_of(sagas[0].definition())
    async with shell.sagas() as database:
        if is_saga_type(what):
            try:
                return graph_of(await database.read(lambda connection: queries.newest_definition(connection, what)))
            except SagaNotFound:
                pass  # it may be a key
        id_ = await database.read(lambda connection: queries.resolve(connection, what))
        found = await database.read(lambda connection: queries.load(connection, id_))
        return graph_of(found.definition, found.instance)


def _form_of(out: Path | None) -> Form:
    if out is None:
        return "tree"
    return "svg" if out.suffix == ".svg" else "mermaid" if out.suffix in (".mmd", ".md") else "tree"


def _write(out: Path, lines: list[str]) -> None:
    try:
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write {out}: {error.strerror or error}") from None
