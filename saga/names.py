"""A saga's public name: `fulfilment/4711`, its second run `fulfilment/4711~2`."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

from ..events.errors import ConfigurationError
from ..tracing.ids import saga_name

_TYPE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_RUN = re.compile(r"[0-9]{1,9}")


class SagaName(NamedTuple):
    """The parts of a name: `key` is the business key as it is, not encoded."""

    type: str
    key: str
    run: int

    @property
    def id(self) -> str:
        """The whole name, with the run when it is not the first."""
        return saga_id(self.type, self.key, self.run)


def kebab_case(name: str) -> str:
    """Turn a class name into a saga type: `OrderFulfilment` gives `order-fulfilment`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).replace("_", "-").lower()


def is_saga_type(text: str) -> bool:
    """Tell whether text can be a saga type."""
    return _TYPE.fullmatch(text) is not None


def saga_id(type_: str, key: str, run: int = 1) -> str:
    """Name a saga; the first run stands without a number."""
    return saga_name(type_, key, run)


def parse_saga_id(text: str) -> SagaName:
    """Read a name.

    Raises:
        ConfigurationError: it is not one.
    """
    type_, separator, rest = text.partition("/")
    encoded, tilde, run = rest.partition("~")
    if not separator or not encoded or not is_saga_type(type_) or (tilde and not _RUN.fullmatch(run)):
        raise ConfigurationError(f"{text!r} is not the name of a saga; write type/key, for example fulfilment/4711")
    return SagaName(type_, unquote(encoded), int(run) if tilde else 1)
