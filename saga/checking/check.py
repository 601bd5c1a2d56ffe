"""`check`: everything that can be said of sagas and services without running them, as a list of findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...events.catalog import ServiceAnnouncement
from ...services.service import Service
from ..saga import Saga
from . import landscape, rules
from .findings import Finding, Findings, ignoring
from .scope import Scope
from .search import Report, model_check


def check(
    *parts: Service | type[Saga],
    catalog: Iterable[ServiceAnnouncement] = (),
    topics: Mapping[str, int] | None = None,
    model: Scope | None = None,
    ignore: Mapping[str, str] | None = None,
) -> Findings:
    """Check sagas and services at rest.

    Args:
        parts: sagas, and the services that they belong with. With no service at all nobody is missed.
        catalog: further services, as they have announced themselves.
        topics: partitions by topic, as a broker has them; None: topics are not looked at.
        model: also model check each saga, so far.
        ignore: reasons by `code` or `code:place`, for what somebody has looked at and accepts.

    Returns:
        The findings, the worst first; `.assert_none()` fails a test.

    Raises:
        ConfigurationError: an entry of `ignore` has no reason.
    """
    services = [part for part in parts if isinstance(part, Service)]
    sagas = [part for part in parts if not isinstance(part, Service)]
    announced = {each.service: each for each in catalog}
    announced.update((service.name, service.announcement()) for service in services)
    there = landscape.Landscape(
        tuple(saga.definition() for saga in sagas), tuple(announced.values()), topics, complete=bool(announced)
    )
    found = [finding for saga in sagas for finding in rules.of_saga(saga.declaration())]
    found += landscape.of_landscape(there)
    for saga in sagas if model is not None else ():
        assert model is not None
        found += of_report(model_check(saga.definition(), model, every=True))
    return Findings(ignoring(found, ignore or {}))


def of_report(report: Report) -> list[Finding]:
    """Give the bad runs of a model check as findings."""
    return [
        Finding(
            f"model:{bad.broken.invariant}",
            "warning" if bad.hazard else "error",
            f"after {len(bad.lines)} steps {bad.broken.sentence}",
            "saga check --model shows the run" if not bad.hazard else "let the saga ask for it: send= a command",
            saga=report.definition.type,
        )
        for bad in report.bad
    ]
