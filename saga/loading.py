"""Find what a command line names: `module:object` or `path/file.py:object`."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from ..events.catalog import breakers_topic, catalog_topics
from ..events.errors import ChoreoError, ConfigurationError
from ..events.failures import HandlerFailed
from ..events.registry import SCHEMAS_TOPIC
from ..events.transport import TopicSpec
from ..services.letters import SETTLED_TOPIC
from ..services.service import Service
from .outcomes import nesting_topics
from .saga import Saga

_FORMS = "write module:object or path/file.py:object"
_PACKAGE = str(Path(__file__).parent.parent)


@dataclass(frozen=True)
class Parts:
    """Services and sagas that belong together, each once."""

    services: tuple[Service, ...] = ()
    sagas: tuple[type[Saga], ...] = ()

    @property
    def name(self) -> str:
        """What a process of them is called: like its only service, else for choreo."""
        return self.services[0].name if len(self.services) == 1 and not self.sagas else "choreo"

    def topics(self, *, partitions: int = 4, replication: int = 0) -> list[TopicSpec]:
        """List every topic that they need, the dead letters' and choreo's own included.

        Args:
            partitions: of each; equal counts let one coordinator meet all events of a saga (ruling R9).
            replication: replicas; 0 leaves it to the broker.
        """
        failures = HandlerFailed.spec().topic
        names = {spec.name for service in self.services for spec in service.topics()}
        for cls in self.sagas:
            definition = cls.definition()
            names |= {*definition.topics.values(), *(f"{topic}.dlq" for topic in definition.consumed_topics)}
        names |= {failures, f"{failures}.dlq"}
        if self.sagas:
            names |= {spec.name for spec in nesting_topics(partitions)}
        internal = [
            *catalog_topics(),
            breakers_topic(),
            *(TopicSpec(name, partitions=1, compacted=True) for name in (SCHEMAS_TOPIC, SETTLED_TOPIC)),
        ]
        return [
            *(TopicSpec(name, partitions=partitions, replication=replication) for name in sorted(names)),
            *(TopicSpec(each.name, each.partitions, each.compacted, replication) for each in internal),
        ]


def load_parts(targets: Iterable[str]) -> Parts:
    """Load services and sagas.

    Args:
        targets: each names a Service, a Saga class, a list of these, or (without `:object`) a module that holds some.

    Raises:
        ConfigurationError: nothing is there, it is something else, or its code raised; what, where, and what to do.
    """
    services: dict[str, Service] = {}
    sagas: dict[type[Saga], None] = {}
    for target in targets:
        found = list(_parts_of(load_object(target), target))
        if not found:
            raise ConfigurationError(f"{target} holds no service and no saga{_within(target)}")
        for part in found:
            if not isinstance(part, Service):
                sagas[part] = None
            elif services.setdefault(part.name, part) is not part:
                raise ConfigurationError(f"two services are called {part.name!r}; one process runs each name once")
    return Parts(tuple(services.values()), tuple(sagas))


def load_object(target: str) -> Any:
    """Load what a target names; without `:object`, the module itself.

    Raises:
        ConfigurationError: as `load_parts`.
    """
    where, _, name = target.partition(":")
    is_file = where.endswith(".py") or "/" in where
    module = _from_file(Path(where)) if is_file else _from_module(where, target)
    found: Any = module
    for part in name.split(".") if name else ():
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigurationError(_missing(where, part, found)) from None
    return found


def _parts_of(found: Any, target: str) -> Iterator[Service | type[Saga]]:
    if isinstance(found, ModuleType):
        names = getattr(found, "__all__", None) or vars(found)
        for value in [getattr(found, name) for name in names]:
            if isinstance(value, Service) or _is_saga(value):
                yield value
    elif isinstance(found, Service) or _is_saga(found):
        yield found
    elif isinstance(found, (list, tuple, set, frozenset)):
        for each in found:
            yield from _parts_of(each, target)
    else:
        kind = f"the class {found.__name__}" if isinstance(found, type) else f"of type {type(found).__name__}"
        raise ConfigurationError(
            f"{target} is {kind}; a target is a Service, a Saga class, a list of these, or a module that holds some"
        )


def _within(target: str) -> str:
    """Name the modules of a package that was named instead of one of them."""
    paths = getattr(sys.modules.get(target), "__path__", None)
    names = sorted(found.name for found in pkgutil.iter_modules(paths)) if paths else []
    return f"; it is a package of {', '.join(names)}: name one, as in {target}.{names[0]}" if names else ""


def _is_saga(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Saga) and value.__declaration__ is not None


def _from_module(name: str, target: str) -> ModuleType:
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigurationError(f"{target!r} names no module; {_FORMS}")
    _look_in(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(
                f"there is no module {error.name!r} here ({Path.cwd()}) or among the installed ones; {_FORMS}"
            ) from None
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _from_file(path: Path) -> ModuleType:
    if path.suffix != ".py":
        raise ConfigurationError(f"{path} is not a Python file; {_FORMS}")
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path} (from {Path.cwd()}); {_FORMS}")
    resolved = path.resolve()
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(resolved):
            return module
    _look_in(resolved.parent)
    name = (
        path.stem if path.stem.isidentifier() and path.stem not in sys.modules else f"choreo_target_{len(sys.modules)}"
    )
    spec = importlib.util.spec_from_file_location(name, resolved)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _broken(str(path), error) from error
    return module


def _look_in(folder: Path) -> None:
    """Let targets import what lies beside them, as `python file.py` would; the console script alone does not."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _broken(where: str, error: BaseException) -> ConfigurationError:
    """Say which line of the user's code raised."""
    reason = error.message if isinstance(error, ChoreoError) else f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError):
        return ConfigurationError(f"cannot load {where}: {error.filename}:{error.lineno}: {error.msg}")
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and not _is_library(frame.filename)
    ]
    place = f"{_short(own[-1].filename)}:{own[-1].lineno}: " if own else ""
    return ConfigurationError(f"cannot load {where}: {place}{reason.splitlines()[0]}")


def _is_library(filename: str) -> bool:
    if filename.startswith(f"{_PACKAGE}/saga/demo/"):
        return False
    rooms = tuple(f"{_PACKAGE}/{room}/" for room in ("events", "tracing", "services", "saga"))
    return filename.startswith((*rooms, sys.base_prefix, sys.prefix)) or "site-packages" in filename


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def _missing(where: str, name: str, within: object) -> str:
    names = [each for each in dir(within) if not each.startswith("_")]
    useful = [each for each in names if isinstance(getattr(within, each), Service) or _is_saga(getattr(within, each))]
    close = get_close_matches(name, useful, n=1) or get_close_matches(name, names, n=1)
    if close:
        return f"{where} has no {name!r}; did you mean {close[0]!r}?"
    return f"{where} has no {name!r}" + (f"; it has {', '.join(useful)}" if useful else f"; {_FORMS}")
