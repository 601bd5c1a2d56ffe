"""Where spans go: OTLP by the standard `OTEL_*` variables, and the span file of embedded runs.

A telemetry backend that is slow or away costs spans, never events: nothing waits, nothing raises, one warning says so,
and every span that was lost is counted (`Tracing.losses`).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from opentelemetry.trace import (
    NoOpTracerProvider,
    ProxyTracerProvider,
    TracerProvider,
    get_tracer_provider,
    set_tracer_provider,
)

from ..events.errors import ConfigurationError
from ..events.settings import Settings
from .sampling import Sampling, read_sampling
from .spans import Losses, Pipeline, Tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from .pipeline import CountedProcessor

SCOPE = "choreo"
SPAN_FILE = "spans.db"

_FILE_DELAY = 0.2
_SAME_IN_EVERY_PROCESS = ("service.name", "service.namespace", "service.version", "deployment.environment.name")
_ours: weakref.WeakSet[TracerProvider] = weakref.WeakSet()


def open_tracing(
    settings: Settings, service_name: str, *, extra: Sequence[SpanExporter] = (), install: bool = False
) -> Tracing:
    """Open tracing for one service or coordinator, as the environment and the settings say.

    Spans go to an OTLP endpoint if `OTEL_EXPORTER_OTLP_ENDPOINT` (or `..._TRACES_ENDPOINT`) names one, and to the span
    file `HOME/spans.db` if the broker is an embedded one with a file. With neither, tracing costs next to nothing. A
    tracer provider that the application has installed makes the services' spans, so they go where its own go.

    Args:
        settings: broker, home and namespace.
        service_name: becomes `service.name`; `OTEL_RESOURCE_ATTRIBUTES` adds to it.
        extra: exporters of the application's own, each with a queue of its own.
        install: also make it the process's provider, unless the application has one, so that spans which handlers
            make with `opentelemetry.trace.get_tracer` go the same way.

    Raises:
        ConfigurationError: an `OTEL_*` variable asks for an exporter that is not there.
    """
    environ = os.environ
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Tracing(namespace=settings.namespace)
    installed = _applications_provider()
    otlp = _otlp_protocol(environ)
    embedded = settings.broker_url.startswith("local:")
    if otlp is None and not embedded and not extra and installed is None:
        return Tracing(namespace=settings.namespace, sampling=read_sampling(environ))
    return _open(settings, service_name, extra, install, installed, otlp, embedded, read_sampling(environ))


def _open(
    settings: Settings,
    service_name: str,
    extra: Sequence[SpanExporter],
    install: bool,
    installed: TracerProvider | None,
    otlp: str | None,
    embedded: bool,
    sampling: Sampling,
) -> Tracing:
    # The SDK costs start-up time: it is imported where there is something to export.
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    from .pipeline import CountedProcessor
    from .spanfile import SpanFileExporter

    pipelines: list[CountedProcessor] = []
    if otlp is not None:
        pipelines.append(_otlp_pipeline(otlp, os.environ))
    pipelines.extend(CountedProcessor(type(exporter).__name__, exporter) for exporter in extra)
    if embedded:
        exporter = SpanFileExporter(settings.home / SPAN_FILE)
        pipelines.append(CountedProcessor("span file", exporter, delay=_FILE_DELAY))
    resource = Resource.create({"service.name": service_name})
    if installed is None:
        provider = SdkTracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sampling.ratio)), resource=resource, shutdown_on_exit=False
        )
        for pipeline in pipelines:
            provider.add_span_processor(pipeline)
        _ours.add(provider)
        if install and isinstance(get_tracer_provider(), ProxyTracerProvider):
            set_tracer_provider(provider)
        tracer = provider.get_tracer(SCOPE)
    else:
        # Its own exporters serve OTLP already; the span file is ours alone.
        if isinstance(installed, SdkTracerProvider):
            for pipeline in pipelines[1 if otlp is not None else 0 :]:
                installed.add_span_processor(pipeline)
        tracer = installed.get_tracer(SCOPE)
    # Two coordinators, or one before and after a crash, must emit identical spans: nothing of the process in them.
    shared = {name: value for name in _SAME_IN_EVERY_PROCESS if (value := resource.attributes.get(name)) is not None}
    sent: list[Pipeline] = [*pipelines]
    return Tracing(
        tracer=tracer,
        pipelines=sent,
        resource=Resource(shared),
        namespace=settings.namespace,
        sampling=sampling,
    )


def _applications_provider() -> TracerProvider | None:
    """Give the provider that the application has installed; None where there is none, or it is ours."""
    provider = get_tracer_provider()
    if isinstance(provider, (ProxyTracerProvider, NoOpTracerProvider)) or provider in _ours:
        return None
    return provider


def _otlp_protocol(environ: Mapping[str, str]) -> str | None:
    """Give the OTLP protocol that the environment asks for; None where it asks for no OTLP."""
    exporters = {each.strip() for each in environ.get("OTEL_TRACES_EXPORTER", "").lower().split(",") if each.strip()}
    named = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if "otlp" not in exporters and (exporters or not named):
        return None
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    return (protocol or "http/protobuf").strip().lower()


def export_again(spans: Iterable[ReadableSpan], timeout: float) -> Losses:
    """Export spans to the OTLP endpoint that the environment names, and say what became of them.

    Args:
        spans: ended ones.
        timeout: seconds that it may take; blocks, so never call it on an event loop.

    Raises:
        ConfigurationError: no endpoint is named.
    """
    protocol = _otlp_protocol(os.environ)
    if protocol is None:
        raise ConfigurationError(
            "no OTLP endpoint is named, so there is nowhere to export to; set OTEL_EXPORTER_OTLP_ENDPOINT"
        )
    pipeline = _otlp_pipeline(protocol, os.environ)
    for span in spans:
        pipeline.on_end(span)
    pipeline.close(timeout)
    return pipeline.losses()


def endpoint() -> str:
    """Give the OTLP endpoint that the environment names; "" where it names none."""
    environ = os.environ
    return environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or ""


def _otlp_pipeline(protocol: str, environ: Mapping[str, str]) -> CountedProcessor:
    from .pipeline import BATCH, DELAY, QUEUE, CountedProcessor

    try:
        exporter = _otlp_exporter(protocol)
    except ValueError as error:
        raise ConfigurationError(f"an OTEL_EXPORTER_OTLP_* variable cannot be used: {error}") from error
    return CountedProcessor(
        f"otlp {protocol}",
        exporter,
        queue=_number(environ, "OTEL_BSP_MAX_QUEUE_SIZE", QUEUE),
        batch=_number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH),
        delay=_number(environ, "OTEL_BSP_SCHEDULE_DELAY", round(DELAY * 1_000)) / 1_000,
    )


def _otlp_exporter(protocol: str) -> SpanExporter:
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter()
    if protocol == "grpc":
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
        except ImportError:
            raise ConfigurationError(
                "OTEL_EXPORTER_OTLP_PROTOCOL=grpc needs the package opentelemetry-exporter-otlp-proto-grpc; "
                "install it, or use http/protobuf"
            ) from None
        return GrpcExporter()
    raise ConfigurationError(
        f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; choreo can export by http/protobuf (the default) and grpc"
    )


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else default
