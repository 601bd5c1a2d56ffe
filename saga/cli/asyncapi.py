"""`saga asyncapi`: services and sagas as an AsyncAPI 3.0 document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ...events.errors import ConfigurationError
from .shell import Shell

if TYPE_CHECKING:
    from ...services.asyncapi import Operation
    from ..saga import Saga

Form = Literal["json", "yaml"]


def asyncapi(
    *targets: str,
    form: Annotated[Form | None, Parameter(name=["--as"], show_default=False)] = None,
    out: Annotated[Path | None, Parameter(show_default=False)] = None,
    title: Annotated[str, Parameter(show_default=False)] = "",
    app_version: str = "1.0.0",
    shell: Annotated[Shell, Parameter(parse=False)],
) -> None:
    """Write an AsyncAPI 3.0 document: topics, who sends and receives what, schemas of values, headers, Kafka bindings.

    It is made of the code alone and asks no broker. YAML needs PyYAML: pip install 'choreo[yaml]'.

    For example: saga asyncapi shop.py --out asyncapi.yaml

    Args:
        targets: services and sagas, module:object or path/file.py.
        form: json or yaml; default: what the ending of --out says, else json.
        out: a file instead of standard output.
        title: of the document; default: the names of the services.
        app_version: the version of the application that it describes.
    """
    from ...services.asyncapi import document, of_service
    from ..loading import load_parts

    if not targets:
        raise ConfigurationError("which services? write module:object or path/file.py")
    settings = shell.settings
    parts = load_parts(targets)
    operations = [each for service in parts.services for each in of_service(service)]
    operations += [each for cls in parts.sagas for each in _of_saga(cls, settings.group)]
    names = [*(service.name for service in parts.services), *(cls.definition().type for cls in parts.sagas)]
    url, secure = settings.broker_url, settings.kafka_security.endswith("SSL")
    server = (url.removeprefix("kafka://").partition(",")[0], secure) if url.startswith("kafka://") else None
    told = document(
        operations, title=title or ", ".join(names), version=app_version, prefix=settings.topic_prefix, server=server
    )
    chosen = form or ("yaml" if out is not None and out.suffix in (".yaml", ".yml") else "json")
    text = _yaml(told) if chosen == "yaml" else _json(told)
    if out is None:
        shell.lines(text.splitlines())
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write {out}: {error.strerror or error}") from None
    shell.hint(f"{len(told['channels'])} channels, {len(told['operations'])} operations written to {out}")


def _of_saga(cls: type[Saga], group: str) -> list[Operation]:
    from ...services.asyncapi import Operation

    declaration = cls.declaration()
    definition, events = declaration.definition, declaration.events
    heard = tuple(events[type_] for type_ in sorted(definition.consumed) if type_ in events)
    found = [Operation(definition.type, "coordinator", "receive", heard, group, f"The saga {definition.type}.")]
    if definition.observe_only:
        return found
    for step in definition.steps:
        said = tuple(events[type_] for type_ in (step.send, step.undo) if type_ is not None and type_ in events)
        found.append(Operation(definition.type, step.name, "send", said))
    ends = (definition.completed, definition.compensated)
    told = tuple(events[type_] for type_ in ends if type_ is not None)
    return [*found, Operation(definition.type, "end", "send", told, "", "What it tells at its end.")]


def _json(told: dict[str, Any]) -> str:
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def _yaml(told: dict[str, Any]) -> str:
    try:
        import yaml
    except ImportError:
        raise ConfigurationError("YAML needs PyYAML: pip install 'choreo[yaml]', or write --as json") from None

    # Written and read once, so that equal parts are parts of their own: tools stumble over YAML's anchors.
    return str(yaml.safe_dump(json.loads(json.dumps(told)), sort_keys=False, allow_unicode=True, width=110))
