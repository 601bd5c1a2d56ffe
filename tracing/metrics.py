"""Where metrics go: OTLP, by the standard `OTEL_*` variables, if they name an endpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.metrics import set_meter_provider

from ..events.errors import ConfigurationError

_PROTOCOLS = ("http/protobuf", "grpc")


@contextmanager
def exported_metrics(service_name: str, environ: Mapping[str, str] = os.environ) -> Iterator[bool]:
    """Export this process's metrics while the block runs, the last values at its end.

    Args:
        service_name: becomes `service.name`; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win.
        environ: the variables; `OTEL_METRIC_EXPORT_INTERVAL` (milliseconds) says how often.

    Yields:
        Whether they are exported: an endpoint is named, and nothing turns metrics off.

    Raises:
        ConfigurationError: the protocol is none that there is.
    """
    endpoint = environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if not endpoint or disabled or environ.get("OTEL_METRICS_EXPORTER", "otlp").strip().lower() == "none":
        yield False
        return
    protocol = (
        environ.get("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL")
        or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    ).strip()
    # The SDK costs start-up time: it is imported where there is something to export.
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    exporter: MetricExporter
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

        exporter = HttpExporter()
    elif protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        exporter = GrpcExporter()
    else:
        raise ConfigurationError(f"OTLP protocol {protocol!r}: write {' or '.join(_PROTOCOLS)}")
    named = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": service_name}
    provider = MeterProvider(
        [PeriodicExportingMetricReader(exporter)], resource=Resource.create(named), shutdown_on_exit=False
    )
    set_meter_provider(provider)
    try:
        yield True
    finally:
        provider.shutdown(timeout_millis=5_000)
