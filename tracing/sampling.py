"""One sampling decision per saga: made at its start, carried in `saga-traceparent`, not recomputed on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

log = structlog.get_logger("choreo.tracing")

_LOW_64_BITS = (1 << 64) - 1
_FAILURES = frozenset(("failed", "compensated", "timed_out"))


@dataclass(frozen=True, slots=True)
class Sampling:
    """The rule of this process, from the standard `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.

    Args:
        ratio: share of sagas that are sampled though their origin is not, from 0 to 1.
        follow_origin: whether a sampled origin makes the saga sampled (the `parentbased_*` samplers).
    """

    ratio: float = 1.0
    follow_origin: bool = True

    def decide(self, trace_id: int, origin_sampled: bool) -> bool:
        """Decide for a saga: sampled if its origin is, or by ratio on the derived trace id.

        An unsampled origin never decides against it: a legacy sampler's `00` would split the view. The comparison is
        that of the SDK's `TraceIdRatioBased`, so the sagas of a smaller ratio are a subset of those of a larger one.
        """
        if self.follow_origin and origin_sampled:
            return True
        return (trace_id & _LOW_64_BITS) < round(self.ratio * (_LOW_64_BITS + 1))


def read_sampling(environ: Mapping[str, str]) -> Sampling:
    """Read the rule from the environment; an unknown sampler counts as the default, `parentbased_always_on`."""
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    follow, root = name.startswith("parentbased_"), name.removeprefix("parentbased_")
    if root == "always_on":
        return Sampling(1.0, follow)
    if root == "always_off":
        return Sampling(0.0, follow)
    if root == "traceidratio":
        argument = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1.0"
        try:
            ratio = float(argument)
        except ValueError:
            ratio = -1.0
        if 0.0 <= ratio <= 1.0:
            return Sampling(ratio, follow)
        log.warning("OTEL_TRACES_SAMPLER_ARG is not a number from 0 to 1; every saga is sampled", value=argument)
        return Sampling(1.0, follow)
    log.warning("OTEL_TRACES_SAMPLER is unknown to choreo; every saga is sampled", value=name)
    return Sampling()


def is_failure(status: str) -> bool:
    """Whether a saga that ended so is marked as an error, and drawn even if it was not sampled.

    Args:
        status: of the saga, in any case.
    """
    return status.lower() in _FAILURES
