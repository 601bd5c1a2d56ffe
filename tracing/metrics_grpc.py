"""The OTLP exporter for metrics over grpc, with the histograms that count for themselves."""

from __future__ import annotations

from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData

from .histograms import Histograms


class GrpcExporter(OTLPMetricExporter):
    """Exports the SDK's data and ours together.

    Args:
        histograms: ours.
    """

    def __init__(self, histograms: Histograms) -> None:
        super().__init__()
        self._histograms_of_ours = histograms

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """See `MetricExporter.export`."""
        return super().export(self._histograms_of_ours.joined(metrics_data), timeout_millis, **kwargs)
