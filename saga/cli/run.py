"""`saga run`: services and sagas in one process, until a signal, a failure, or nothing is left to do."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from ...events import loops
from ...events.errors import ConfigurationError
from . import exits
from .reloading import when_told
from .shell import Shell

if TYPE_CHECKING:
    from ...services.probes import Probes
    from ...tracing.metrics import Metrics
    from ..loading import Parts
    from ..options import Options
    from ..running import Process

run = App(
    name="run",
    help="Run services and sagas.",
    help_format="plaintext",
    help_epilogue="""Examples:
  saga run shop.py --reload
  saga run shop.py:inventory shop.py:Fulfilment --health 8086
  saga run my_shop --until-idle""",
)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@run.default
def run_targets(
    *targets: str,
    until_idle: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    create_topics: bool | None = None,
    on_gap: Literal["stop", "continue"] = "stop",
    health: Annotated[str, Parameter(show_default=False)] = "",
    reload: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Run services and sagas in this process.

    Ctrl-C or SIGTERM ends it once what has begun is finished; a second one ends it at once.

    Args:
        targets: module:object or path/file.py:object; an object is a Service, a Saga class or a list of these, and a
            module without :object stands for all that it holds.
        until_idle: end when nothing is left to do; sagas that are still open are listed.
        create_topics: make missing topics; by default on the embedded brokers, not on Kafka.
        on_gap: what to do about events that were deleted before they were read.
        health: answer /healthz, /readyz and /metrics at HOST:PORT, or at PORT on 127.0.0.1.
        reload: for development: start again when the code changes.
    """
    from ..loading import load_parts
    from ..options import Options

    if not targets:
        raise ConfigurationError(
            "what shall run? name services and sagas, as in saga run shop.py:orders shop.py:Fulfilment"
        )
    if reload:
        from .reloading import watch

        arguments = [each for each in sys.argv[1:] if each != "--reload"]
        return watch(arguments, targets, lambda text: print(text, file=sys.stderr, flush=True))
    parts = load_parts(targets)  # before there is a loop: a module may do at its import what it likes
    from ...tracing.metrics import exported_metrics

    address = health or shell.settings.health
    with exported_metrics(parts.name, scraped=bool(address)) as metrics:
        return loops.run(_run(shell, parts, until_idle, create_topics, Options(gap=on_gap), address, metrics))


async def _run(
    shell: Shell,
    parts: Parts,
    until_idle: bool,
    create_topics: bool | None,
    options: Options,
    health: str,
    metrics: Metrics | None,
) -> int:
    from ...events.garbage import collect_seldom
    from ...events.transports import connect
    from ..running import Process

    settings = shell.settings
    embedded = not settings.broker_url.startswith("kafka:")
    stopping = stop_on_signal()
    async with connect(settings.broker_url, settings) as transport:
        process = Process(
            parts,
            transport,
            settings,
            options=options,
            create_topics=embedded if create_topics is None else create_topics,
            meters=metrics.meters if metrics is not None else None,
        )
        probes = _probes(health, process, metrics)
        async with probes or nullcontext(), process:
            collect_seldom()
            _announce(shell, parts, transport.url, f"{probes.host}:{probes.port}" if probes is not None else None)
            ended = asyncio.create_task(process.until_idle() if until_idle else _for_ever())
            failed = asyncio.create_task(process.wait())
            asked = asyncio.create_task(stopping.wait())
            done, pending = await asyncio.wait({ended, failed, asked}, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            for task in done:
                task.result()
            if probes is not None:
                probes.stopping = True
            if asked in done:
                shell.hint("stopping: finishing what has begun; once more to stop at once")
    if ended in done:
        await _list_open(shell, parts)
    return exits.OK


async def _for_ever() -> None:
    await asyncio.Event().wait()


def stop_on_signal() -> asyncio.Event:
    """Set the event at the first signal; end the process at the second."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopping.is_set():
            os._exit(exits.INTERRUPTED)  # said twice: no clean-up; what is not committed comes again
        stopping.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    when_told(stopping.set)
    return stopping


def _probes(address: str, process: Process, metrics: Metrics | None) -> Probes | None:
    if not address:
        return None
    from ...services.probes import Probes, scraping

    text = scraping(process.measure, metrics) if metrics is not None else None
    return Probes(address, process.health, process.size, text)


def _announce(shell: Shell, parts: Parts, broker: str, health: str | None) -> None:
    """Say in one line what runs, and where."""
    import structlog

    from ...events.database import redacted
    from .logs import as_json

    settings = shell.settings
    fields = {
        "services": [service.name for service in parts.services],
        "sagas": [f"{cls.definition().type}@{cls.definition().version}" for cls in parts.sagas],
        "broker": broker,
        "store": redacted(settings.store_url) if parts.sagas else None,
        "prefix": settings.topic_prefix or None,
        "health": health,
        "traces": os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        or (str(settings.home / "spans.db") if broker.startswith("local:") else None),
    }
    told = {name: value for name, value in fields.items() if value}
    if as_json():
        structlog.get_logger("choreo.run").warning("running", **told)
        return
    shell.hint("running  " + " · ".join(f"{name} {_words(value)}" for name, value in told.items()))


def _words(value: object) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


async def _list_open(shell: Shell, parts: Parts) -> None:
    """List what is still open when nothing is left to do: it waits for somebody, or for a later time."""
    if not parts.sagas:
        return
    from ..queries import Filter, count_parked, count_phases
    from .listing import show_list
    from .shells import Shells

    types = sorted({cls.definition().type for cls in parts.sagas})
    wanted = Filter(types=types, only_open=True)
    async with shell.sagas() as database:
        number = sum((await database.read(lambda c: count_phases(c, wanted))).values())
        parked = await database.read(count_parked)
    shell.hint("nothing is left to do; still open:" if number else "nothing is left to do, and no saga is open")
    if number or shell.machine:
        await show_list(Shells.of(shell), wanted, limit=20)
    waiting = sum(count for (type_, _), (count, _) in parked.items() if type_ in types)
    if waiting:
        told = "events wait" if waiting > 1 else "event waits"
        shell.hint(f"{waiting:,} {told} for a saga that has not begun: saga ignored, saga why KEY")
