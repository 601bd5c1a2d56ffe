"""Where metrics go: OTLP, by the standard `OTEL_*` variables, and Prometheus text for whoever scrapes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import get_meter_provider, set_meter_provider

from ..events.errors import ConfigurationError
from .histograms import Histograms
from .meters import Meters

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader

SCOPE = "choreo"

_PROTOCOLS = ("http/protobuf", "grpc")


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of one process while they are on.

    Args:
        meters: what is measured with.
        text: writes everything as Prometheus text, with its content type; None where nobody scrapes.
    """

    meters: Meters
    text: Callable[[], tuple[bytes, str]] | None = None


@contextmanager
def exported_metrics(
    service_name: str, environ: Mapping[str, str] = os.environ, *, scraped: bool = False
) -> Iterator[Metrics | None]:
    """Measure and export while the block runs, the last values at its end.

    A meter provider that the application has installed is used as it is, and then nothing is scraped here.

    Args:
        service_name: becomes `service.name`; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win.
        environ: the variables; `OTEL_METRIC_EXPORT_INTERVAL` (milliseconds) says how often.
        scraped: Prometheus text is asked for; needs the extra `prometheus`.

    Yields:
        The metrics; None where neither an endpoint is named nor anybody scrapes, or something turns metrics off.

    Raises:
        ConfigurationError: the protocol is none that there is.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield None
        return
    installed = installed_provider()
    if installed is not None:
        yield Metrics(Meters(installed.get_meter(SCOPE)))
        return
    histograms = Histograms()
    readers: list[MetricReader] = []
    if (exporter := _exporter(environ, histograms)) is not None:
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        readers.append(PeriodicExportingMetricReader(exporter))
    text = None
    if scraped and (scrape := _scrape(histograms)) is not None:
        reader, text = scrape
        readers.append(reader)
    if not readers:
        yield None
        return
    # The SDK costs start-up time: it is imported where there is something to export.
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource

    named = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": service_name}
    provider = MeterProvider(readers, resource=Resource.create(named), shutdown_on_exit=False)
    _ours.append(provider)
    if len(_ours) == 1:  # a process can have one for good; what is measured for us does not depend on it
        set_meter_provider(provider)
    try:
        yield Metrics(Meters(provider.get_meter(SCOPE), histograms), text)
    finally:
        provider.shutdown(timeout_millis=5_000)


_ours: list[Any] = []


def installed_provider() -> MeterProvider | None:
    """Give the meter provider that the application has installed; None where there is none, or it is ours."""
    if "opentelemetry.sdk.metrics" not in sys.modules:  # then nobody can have installed one
        return None
    from opentelemetry.sdk.metrics import MeterProvider

    found = get_meter_provider()
    return found if isinstance(found, MeterProvider) and found not in _ours else None


def _exporter(environ: Mapping[str, str], histograms: Histograms) -> MetricExporter | None:
    endpoint = environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint or environ.get("OTEL_METRICS_EXPORTER", "otlp").strip().lower() == "none":
        return None
    protocol = (
        environ.get("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL")
        or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    ).strip()
    if protocol == "http/protobuf":
        from .metrics_http import HttpExporter

        return HttpExporter(histograms)
    if protocol == "grpc":
        from .metrics_grpc import GrpcExporter

        return GrpcExporter(histograms)
    raise ConfigurationError(f"OTLP protocol {protocol!r}: write {' or '.join(_PROTOCOLS)}")


def _scrape(histograms: Histograms) -> tuple[MetricReader, Callable[[], tuple[bytes, str]]] | None:
    """Make what a scrape reads; None where the extra is not installed."""
    try:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    except ImportError:
        return None
    registry = CollectorRegistry(auto_describe=False)
    reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)
    registry.register(histograms)
    return reader, lambda: (generate_latest(registry), CONTENT_TYPE_LATEST)
