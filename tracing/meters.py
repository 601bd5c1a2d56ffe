"""The instruments of one process, by name: who measures asks here, wherever the values go in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Protocol

from opentelemetry.metrics import CallbackOptions, Counter, Meter, Observation
from opentelemetry.metrics import Histogram as OtelHistogram

from .histograms import Histograms
from .instruments import INSTRUMENTS

Attributes = Mapping[str, str]
Source = Callable[[], Iterable[tuple[float, Attributes]]]


class Recorder(Protocol):
    """Takes measurements that share their attributes."""

    def record(self, value: float) -> None:
        """Count one measurement."""


class Meters:
    """Makes and keeps instruments of `INSTRUMENTS`.

    Args:
        meter: of a provider.
        histograms: counts durations; None: the meter's own histograms do, at the SDK's price for each record.
    """

    def __init__(self, meter: Meter, histograms: Histograms | None = None) -> None:
        self._meter = meter
        self._histograms = histograms
        self._counters: dict[str, Counter] = {}
        self._otel: dict[str, OtelHistogram] = {}
        self._sources: dict[str, list[Source]] = {}

    def add(self, name: str, amount: float, attributes: Attributes) -> None:
        """Raise a counter; it costs what a call of the SDK costs, so once for a batch."""
        counter = self._counters.get(name)
        if counter is None:
            of = INSTRUMENTS[name]
            counter = self._counters[name] = self._meter.create_counter(name, of.unit, of.description)
        counter.add(amount, dict(attributes))

    def recorder(self, name: str, attributes: Attributes) -> Recorder:
        """Give what takes the measurements of a histogram under these attributes; keep it."""
        if self._histograms is not None:
            return self._histograms.series(name, attributes)
        histogram = self._otel.get(name)
        if histogram is None:
            of = INSTRUMENTS[name]
            histogram = self._otel[name] = self._meter.create_histogram(
                name, of.unit, of.description, explicit_bucket_boundaries_advisory=of.bounds
            )
        return _Recording(histogram, attributes)

    def observe(self, name: str, source: Source) -> Callable[[], None]:
        """Have a source asked at each export and scrape; give what ends that.

        Args:
            name: of a counter or a gauge; several sources may share it, with different attributes.
            source: gives values and their attributes, at once and without waiting; it is called in any thread.
        """
        sources = self._sources.get(name)
        if sources is None:
            sources = self._sources[name] = []
            of = INSTRUMENTS[name]
            make = (
                self._meter.create_observable_counter if of.kind == "counter" else self._meter.create_observable_gauge
            )
            make(name, [partial(_ask, sources)], of.unit, of.description)
        sources.append(source)
        return partial(_forget, sources, source)


class _Recording:
    """A histogram of the SDK under fixed attributes."""

    def __init__(self, histogram: OtelHistogram, attributes: Attributes) -> None:
        self._histogram = histogram
        self._attributes = dict(attributes)

    def record(self, value: float) -> None:
        self._histogram.record(value, self._attributes)


def _ask(sources: list[Source], _: CallbackOptions) -> Iterator[Observation]:
    for source in list(sources):
        for value, attributes in source():
            yield Observation(value, dict(attributes))


def _forget(sources: list[Source], source: Source) -> None:
    if source in sources:
        sources.remove(source)
