"""`saga demo`: the whole shop in one process on the embedded broker, which at the end proves itself.

It may be killed at any moment and started again: it goes on where it was, and the proof is the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import structlog
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from sqlalchemy import Connection, func, select

from ...events import loops
from ...events.database import Database
from ...events.errors import ConfigurationError
from ...events.publisher import Publisher
from ...events.settings import Settings, load_settings
from ...events.transport import Transport
from ...events.transports import connect
from ..cli.shell import Shell
from ..loading import Parts
from ..options import Options
from ..running import Process
from ..tables import saga
from ..timers import Breaker
from ..words import Phase
from . import report
from .books import prove, read_books, read_sagas
from .saga import Fulfilment
from .shop import SERVICES
from .traffic import Mix, Placed, load_mix, traffic
from .webshop import SOURCE, place

PARTS = Parts(SERVICES, (Fulfilment,))

OPTIONS = Options(breaker=Breaker(share=1.0))
"""A demo that was killed finds many orders late at once, and there is nobody to say `saga resume`: no breaker."""

SESSION = 3.0
"""Seconds after which what a killed demo held is taken over: it runs alone, so nobody can be slow on the network."""

PATIENCE = 120.0
"""Seconds without any progress after which the demo gives up."""

_STATE = "demo.json"
_LOG = "demo.log"
_DATA = (_LOG, "broker.db", "saga.db", "spans.db", *(f"{service.name}.db" for service in SERVICES))
_LOOK = 0.2


def run_demo(
    *,
    orders: int | None = None,
    seed: int | None = None,
    home: Path | None = None,
    keep: bool = False,
    shell: Shell | None = None,
) -> int:
    """Run the demo, print what came of it, and give the exit code: 0 if everything is proven.

    Args:
        orders: how many; default: `CHOREO_DEMO_ORDERS`, or 200.
        seed: decides which order meets which trouble; default: `CHOREO_DEMO_SEED`, or 4711.
        home: folder of its files; default: `demo` in the home folder. An unfinished demo there goes on.
        keep: look again at a finished demo there, instead of beginning a new one.
        shell: where it prints, and how.

    Raises:
        ConfigurationError: the folder holds something else, or a setting is wrong.
    """
    base = load_settings()
    folder = home if home is not None else base.home / "demo"
    mix = _prepare(folder, load_mix(orders=orders, seed=seed), keep=keep, asked=orders is not None or seed is not None)
    # Whatever the environment says of a real system: the demo keeps to its own folder.
    settings = base.model_copy(
        update={
            "home": folder,
            "broker": f"local:{folder / 'broker.db'}",
            "store": "",
            "service_store": "",
            "registry": "",
            "topic_prefix": "",
            "group": "choreo.coordinator",
            "session": base.session or SESSION,
        }
    )
    with (folder / _LOG).open("a") as log:
        _log_to(log)
        shell = shell or Shell()
        try:
            return loops.run(_run(shell, settings, mix))
        except KeyboardInterrupt:
            shell.hint("interrupted; the same command goes on")
            raise


async def _run(shell: Shell, settings: Settings, mix: Mix) -> int:
    placed = list(traffic(mix))
    report.begin(shell, mix, settings.home)
    broker = connect(settings.broker_url, settings)
    async with broker, Process(PARTS, broker, settings, options=OPTIONS, create_topics=True) as process:
        with _progress(shell) as progress:
            bar = progress.add_task("starting", total=len(placed))
            publishing = asyncio.create_task(_place(placed, broker, settings, mix.pace))
            try:
                complete = await _watch(process, publishing, settings, progress, bar)
            finally:
                publishing.cancel()
                await asyncio.gather(publishing, return_exceptions=True)
    if not complete:
        report.gave_up(shell, await read_sagas(settings), PATIENCE)
        return 1
    books = await read_books(settings)
    checks = prove(books, [each.event for each in placed])
    _finish(settings.home, mix)
    await report.end(shell, books, checks, settings.home)
    return 0 if all(check.holds for check in checks) else 1


async def _place(placed: Iterable[Placed], broker: Transport, settings: Settings, pace: float) -> None:
    """Be the web shop: publish what was not published before."""
    known = await _known_orders(settings)
    fresh = [each for each in placed if each.event.order_id not in known]
    async with Publisher(broker, source=SOURCE, settings=settings) as publisher:
        await place(fresh, publisher, pace)


async def _known_orders(settings: Settings) -> set[str]:
    """Orders that have a saga; others may have been published, and are published again under the same id."""

    def keys(connection: Connection) -> set[str]:
        return set(connection.execute(select(saga.c.key)).scalars())

    database = await Database.open(settings.store_url)
    try:
        return await database.read(keys)
    finally:
        await database.close()


async def _watch(
    process: Process, publishing: asyncio.Task[None], settings: Settings, progress: Progress, bar: TaskID
) -> bool:
    """Show how far it is, until nothing is left to do; False when nothing moved for too long."""
    database = await Database.open(settings.store_url)
    failing = asyncio.create_task(process.wait())
    idle: asyncio.Task[None] | None = None
    loop = asyncio.get_running_loop()
    last, since = -1, loop.time()
    try:
        while True:
            phases, moves = await database.read(_phases)
            ended = sum(number for phase, number in phases.items() if Phase(phase).ended)
            progress.update(bar, completed=ended, description=_described(phases, publishing.done()))
            if moves != last:
                last, since = moves, loop.time()
            if publishing.done():
                publishing.result()
                idle = idle or asyncio.create_task(process.until_idle())
                if idle.done():
                    idle.result()
                    if not phases.keys() - {phase.value for phase in Phase if phase.ended}:
                        return True
                    idle = None
            if failing.done():
                failing.result()
            if loop.time() - since > PATIENCE:
                return False
            await asyncio.sleep(_LOOK)
    finally:
        tasks = [task for task in (failing, idle) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await database.close()


def _phases(connection: Connection) -> tuple[dict[str, int], int]:
    """Count the sagas by phase, and all moves that they have made."""
    found = connection.execute(select(saga.c.phase, func.count(), func.sum(saga.c.seq)).group_by(saga.c.phase))
    rows = found.all()
    return {phase: number for phase, number, _ in rows}, sum(int(moves) for _, _, moves in rows)


def _described(phases: dict[str, int], published: bool) -> str:
    undone = phases.get(Phase.COMPENSATING, 0)
    undoing = f", {undone} being undone" if undone else ""
    return f"{'all orders placed' if published else 'orders are placed'}{undoing:<24}"


def _progress(shell: Shell) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} ended"),
        TimeElapsedColumn(),
        console=shell.err,
        disable=shell.quiet or not shell.err.is_terminal,
        transient=True,
    )


# ---- the folder ---------------------------------------------------------------------------------------------------


def _prepare(folder: Path, mix: Mix, *, keep: bool, asked: bool) -> Mix:
    """Make the folder ready, and give the mix of the demo that runs in it.

    Args:
        folder: where.
        mix: what was asked for.
        keep: leave a finished demo as it is.
        asked: somebody named a number of orders or a seed.
    """
    state = folder / _STATE
    if not state.exists():
        if folder.exists() and any(folder.iterdir()):
            raise ConfigurationError(f"{folder} holds something that is no demo; name an empty folder with --home")
        folder.mkdir(parents=True, exist_ok=True)
        return _begin(folder, mix)
    try:
        saved = json.loads(state.read_text())
        known, finished = Mix(**saved["mix"]), bool(saved["finished"])
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(
            f"{state} is damaged; delete the folder {folder}, or name another with --home"
        ) from None
    if finished and not keep:
        for name in _DATA:
            for path in folder.glob(f"{name}*"):
                path.unlink()
        return _begin(folder, mix)
    if asked and known != mix:
        kind = "a finished" if finished else "an unfinished"
        raise ConfigurationError(
            f"{folder} holds {kind} demo of {known.orders} orders with seed {known.seed}; "
            "go on with that one (leave out --orders and --seed), delete the folder, or name another with --home"
        )
    return known


def _begin(folder: Path, mix: Mix) -> Mix:
    _write(folder, mix, finished=False)
    return mix


def _finish(folder: Path, mix: Mix) -> None:
    _write(folder, mix, finished=True)


def _write(folder: Path, mix: Mix, *, finished: bool) -> None:
    fresh = folder / f"{_STATE}.new"
    fresh.write_text(json.dumps({"mix": mix.model_dump(), "finished": finished}, indent=2) + "\n")
    fresh.replace(folder / _STATE)


def _log_to(file: TextIO) -> None:
    """The screen is for the demo; what services and coordinator log goes into its folder."""
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=file),
    )
