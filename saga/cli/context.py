"""`saga context`: the installations that somebody works with, as named sets of settings in `choreo.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from ...events.contexts import FILE, ContextFile, read_contexts
from ...events.errors import ConfigurationError
from .shell import Shell
from .suggesting import contexts

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

CONTEXT = "saga.context/v1"

_Name = Annotated[str, Parameter(completer=contexts)]

context = App(name="context", help="Named sets of settings: list, show, use, add, remove.", help_format="plaintext")


@context.command(name="list")
def list_(*, shell: Annotated[Shell, Parameter(parse=False)]) -> None:
    """List the contexts of choreo.toml; `*` stands before the one in use."""
    from .tables import draw

    file, current = read_contexts(), _current(shell)
    rows = [_told(name, values, current) for name, values in file.named.items()]
    if shell.machine:
        shell.json(rows)
        return
    if shell.output == "id":
        shell.lines(row["name"] for row in rows)
        return
    table = [
        [
            "*" if row["current"] else "",
            row["name"],
            *(str(row["settings"].get(name, "-")) for name in ("broker", "store", "home", "topic_prefix")),
        ]
        for row in rows
    ]
    if table:
        draw(shell, ["", "NAME", "BROKER", "STORE", "HOME", "PREFIX"], table)
    shell.hint(f"{len(rows)} contexts in {FILE}" + (f" · in use: {current}" if current else " · none in use"))


@context.command
def show(name: _Name = "", /, *, shell: Annotated[Shell, Parameter(parse=False)]) -> None:
    """Show the settings of a context, secrets masked.

    Args:
        name: of the context; default: the one in use.
    """
    from .tables import draw

    chosen = name or _current(shell)
    if not chosen:
        raise ConfigurationError(f"no context is in use; saga context use NAME, or name one of {FILE}")
    told = _told(chosen, read_contexts().of(chosen), _current(shell))
    if shell.machine:
        shell.json(told)
    elif shell.output == "id":
        shell.lines([chosen])
    else:
        draw(shell, ["SETTING", "VALUE"], [[key, str(value)] for key, value in told["settings"].items()])
        shell.hint(f"context {chosen} of {FILE}" + (", in use" if told["current"] else ""))


@context.command
def use(name: _Name, /, *, shell: Annotated[Shell, Parameter(parse=False)]) -> None:
    """Use a context from now on, wherever this choreo.toml is read.

    `--context` and CHOREO_CONTEXT name another one for a call. CHOREO_* variables of single settings count more than a
    context that is in use, and less than one that `--context` names.

    Args:
        name: of the context.
    """
    import tomlkit

    file = read_contexts()
    file.of(name)
    document = _document()
    if "context" in document:
        document["context"] = name
    else:  # above all tables: below one the line would belong to that
        document = tomlkit.parse(f'context = "{name}"\n{document.as_string()}')
    _write(document)
    _answer(shell, name, file.named[name], current=name, said=f"context {name} is in use")


@context.command
def add(name: str, /, *settings: str, shell: Annotated[Shell, Parameter(parse=False)]) -> None:
    """Add a context to choreo.toml, or give one that is there these settings instead.

    Args:
        name: of the context.
        settings: as in broker=kafka://kafka.staging:9092 store=postgresql://reader@db/choreo topic_prefix=staging.
    """
    import tomlkit

    from ...events.settings import Settings, load_settings

    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigurationError(f"{name!r} is no name for a context; use letters, digits, - and _")
    values = dict(_parsed(each, Settings.model_fields) for each in settings)
    if not values:
        raise ConfigurationError(f"which settings? for example: saga context add {name} home=/srv/{name}")
    load_settings(**values)  # says which one is wrong
    document = _document()
    table = tomlkit.table()
    table.update(values)
    document.setdefault("contexts", tomlkit.table(is_super_table=True))[name] = table
    _write(document)
    if any(_is_secret(each, value) for each, value in values.items()):
        shell.hint(f"⚠ {FILE} holds a secret now: keep it out of version control, or set it in the environment")
    _answer(shell, name, values, current=_current(shell), said=f"context {name} is in {FILE}")


@context.command
def remove(name: _Name, /, *, shell: Annotated[Shell, Parameter(parse=False)]) -> None:
    """Remove a context from choreo.toml.

    Args:
        name: of the context.
    """
    file = read_contexts()
    values = file.of(name)
    document = _document()
    del document["contexts"][name]
    if file.current == name:
        del document["context"]
    _write(document)
    _answer(shell, name, values, current="", said=f"context {name} is gone from {FILE}")


def masked(name: str, value: Any) -> Any:
    """Give a setting as it may be shown: secrets and the passwords of addresses are not."""
    from ...events.database import redacted
    from ...events.secret import MASK
    from ...events.settings import Settings

    field = Settings.model_fields.get(name)
    if field is not None and "SecretStr" in str(field.annotation):
        return MASK
    return redacted(value) if isinstance(value, str) and "://" in value else value


def _told(name: str, values: Mapping[str, Any], current: str) -> dict[str, Any]:
    shown = {key: masked(key, value) for key, value in values.items()}
    return {"schema": CONTEXT, "name": name, "current": name == current, "settings": shown}


def _is_secret(name: str, value: Any) -> bool:
    return bool(masked(name, value) != value)


def _answer(shell: Shell, name: str, values: Mapping[str, Any], *, current: str, said: str) -> None:
    if shell.machine:
        shell.json(_told(name, values, current))
    elif shell.output == "id":
        shell.lines([name])
    else:
        shell.lines([said])


def _current(shell: Shell) -> str:
    import os

    file: ContextFile = read_contexts()
    return shell.context or os.environ.get("CHOREO_CONTEXT") or file.current


def _parsed(text: str, known: Mapping[str, Any]) -> tuple[str, Any]:
    import difflib

    name, equals, value = text.partition("=")
    name = name.strip().lower().removeprefix("choreo_").replace("-", "_")
    if not equals or not value:
        raise ConfigurationError(f"{text!r} is no setting; write name=value, as in home=/srv/staging")
    if name not in known or name == "context":
        near = difflib.get_close_matches(name, known, 1)
        raise ConfigurationError(f"there is no setting {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    return name, value


def _document() -> TOMLDocument:
    import tomlkit

    read_contexts()  # with its errors
    return tomlkit.parse(FILE.read_text(encoding="utf-8")) if FILE.exists() else tomlkit.document()


def _write(document: TOMLDocument) -> None:
    try:
        FILE.write_text(document.as_string(), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write {FILE}: {error.strerror or error}") from None
