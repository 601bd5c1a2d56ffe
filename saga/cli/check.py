"""`saga check`: what can be said of sagas and services without running them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ...events.errors import ConfigurationError, DefinitionError
from . import exits
from .shell import Shell

if TYPE_CHECKING:
    from ...events.catalog import ServiceAnnouncement
    from ..checking.findings import Finding, Findings
    from ..checking.scope import Scope
    from ..checking.search import Report
    from ..loading import Parts
    from ..saga import Saga

_EVERY = 0.5
"""Seconds between two lines of progress."""

Switch = Annotated[bool, Parameter(negative="", show_default=False)]


def check(
    *targets: str,
    model: Switch = False,
    live: Switch = False,
    strict: Switch = False,
    ignore: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    sagas: int = 2,
    duplicates: int = 1,
    crashes: int = 1,
    commands: int = 0,
    attempts: int = 1,
    depth: int = 0,
    seconds: float = 60,
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Check sagas and services at rest: the declaration, who says and hears what, and with --model every run.

    Exit code 1 where something is an error; with --strict a warning is one too.

    Args:
        targets: sagas and the services that they belong with, as for `saga run`.
        model: also try every order of events, failures, timeouts, duplicates and crashes in a small world.
        live: also look at the broker: its topics, and what services have announced there.
        strict: warnings count as errors.
        ignore: CODE=REASON or CODE:PLACE=REASON, for what was looked at and accepted; may be given several times.
        sagas: with --model, instances that share the faults.
        duplicates: with --model, events that come twice under another id.
        crashes: with --model, services that die between effect and answer.
        commands: with --model, what people ask for: cancel, retry-undo, mark-undone.
        attempts: with --model, of each command; more are cut to this.
        depth: with --model, longest run; 0 for no limit.
        seconds: with --model, for each saga; 0 for no limit.
    """
    from ..checking.scope import Scope

    if not targets:
        raise ConfigurationError("what is to be checked? name sagas and services, as in saga check shop.py")
    accepted = _ignored(ignore)
    parts, broken = _load(targets)
    catalog, topics = asyncio.run(_look(shell)) if live else ([], None)
    scope = Scope(sagas, duplicates, crashes, commands, attempts, depth=depth, seconds=seconds)
    reports = [(saga, _modelled(saga, scope, shell)) for saga in parts.sagas] if model else []
    found = _found(parts, broken, catalog, topics, [report for _, report in reports], accepted)
    if shell.machine:
        shell.json([*(each.to_json() for each in found), *(_report_json(report) for _, report in reports)])
    else:
        _show(shell, found, reports)
    if any(report.stopped == "interrupted" for _, report in reports):
        return exits.INTERRUPTED
    return exits.ERROR if found.fatal(strict=strict) else exits.OK


def _ignored(entries: Sequence[str]) -> dict[str, str]:
    found = {}
    for entry in entries:
        code, equals, reason = entry.partition("=")
        if not equals or not reason.strip():
            raise ConfigurationError(
                f"--ignore {entry!r}: say why, as in --ignore 'no-consumer:OrderArchived=read by BI'"
            )
        found[code.strip()] = reason.strip()
    return found


def _load(targets: Sequence[str]) -> tuple[Parts, list[Finding]]:
    """Load what can be loaded; a declaration that is refused becomes a finding."""
    from ..checking.findings import Finding
    from ..loading import Parts, load_parts

    broken = []
    loaded = []
    for target in targets:
        try:
            loaded.append(load_parts([target]))
        except ConfigurationError as error:
            if not isinstance(error.__cause__, DefinitionError):
                raise
            sentence, _, remedy = error.message.partition("; ")
            step = str(error.__cause__.ids.get("step", ""))
            broken.append(Finding("definition", "error", sentence, remedy or "see its message", step=step))
    services = dict.fromkeys(service for parts in loaded for service in parts.services)
    return Parts(tuple(services), tuple(dict.fromkeys(saga for parts in loaded for saga in parts.sagas))), broken


async def _look(shell: Shell) -> tuple[list[ServiceAnnouncement], dict[str, int]]:
    from ...events.catalog import read_catalog
    from ...events.transports import connect

    settings = shell.settings
    async with connect(settings.broker_url, settings) as transport:
        catalog = await read_catalog(transport)
        topics = await transport.topics()
    return list(catalog.values()), {name: info.partitions for name, info in topics.items()}


def _found(
    parts: Parts,
    broken: list[Finding],
    catalog: list[ServiceAnnouncement],
    topics: Mapping[str, int] | None,
    reports: list[Report],
    ignore: Mapping[str, str],
) -> Findings:
    from ..checking.check import check as at_rest
    from ..checking.check import of_report
    from ..checking.findings import Findings, ignoring

    found = [*broken, *at_rest(*parts.services, *parts.sagas, catalog=catalog, topics=topics)]
    found += [each for report in reports for each in of_report(report)]
    return Findings(ignoring(found, ignore))


def _modelled(saga: type[Saga], scope: Scope, shell: Shell) -> Report:
    from ..checking.search import model_check

    last = 0.0

    def progress(states: int, _transitions: int, depth: int) -> None:
        nonlocal last
        if shell.err.is_terminal and not shell.quiet and monotonic() - last > _EVERY:
            last = monotonic()
            shell.err.file.write(f"\r{saga.definition().type}: {states:,} states, {depth} actions deep ")
            shell.err.file.flush()

    report = model_check(saga.definition(), scope, every=True, progress=progress)
    if last:
        shell.err.file.write("\r\x1b[K")
    return report


def _show(shell: Shell, found: Findings, reports: list[tuple[type[Saga], Report]]) -> None:
    for each in found:
        ignored = f" (ignored: {each.ignored})" if each.ignored else ""
        shell.lines([f"{each.severity:<8} {each.code:<20} {each.place}{ignored}", f"         {each.sentence}"])
        if not each.ignored:
            shell.lines([f"         -> {each.remedy}"])
    for saga, report in reports:
        _tell(shell, saga, report)
    shell.hint(found.summary())


def _tell(shell: Shell, saga: type[Saga], report: Report) -> None:
    from ..checking.story import as_test, mermaid, tell

    scope = report.scope
    for bad in report.bad:
        shell.lines(["", f"the shortest run that breaks {bad.broken.invariant} in {report.definition.type}:"])
        shell.lines(tell(report.definition, scope, bad))
        shell.lines(["", "```mermaid", mermaid(report.definition, scope, bad), "```", ""])
        shell.lines([as_test(saga.__name__, saga.__module__, scope, bad)])
    rate = report.states / report.seconds if report.seconds else 0
    shell.lines(
        [
            f"model    {report.definition.type}: {report.states:,} states, {report.transitions:,} transitions, "
            f"{report.depth} actions deep, {report.seconds:.1f} s ({rate:,.0f} states/s), "
            f"{'everything in this scope' if not report.stopped else f'not all: {report.stopped}'}",
            f"         {scope.sagas} sagas, {len(report.definition.steps)} steps, {scope.duplicates} duplicates, "
            f"{scope.crashes} crashes, {scope.commands} commands of people, {scope.attempts} attempts",
        ]
    )


def _report_json(report: Report) -> dict[str, Any]:
    from ..checking.story import mermaid, tell

    scope = report.scope
    return {
        "schema": "saga.model/v1",
        "saga": report.definition.type,
        "states": report.states,
        "transitions": report.transitions,
        "depth": report.depth,
        "duration_ms": round(report.seconds * 1_000),
        "stopped": report.stopped or None,
        "scope": {
            name: getattr(scope, name)
            for name in ("sagas", "duplicates", "crashes", "commands", "attempts", "undo_attempts")
        },
        "runs": [
            {
                "invariant": bad.broken.invariant,
                "sentence": bad.broken.sentence,
                "lines": list(bad.lines),
                "story": [re.sub(r"\s+", " ", line).strip() for line in tell(report.definition, scope, bad)],
                "mermaid": mermaid(report.definition, scope, bad),
            }
            for bad in report.bad
        ],
    }
