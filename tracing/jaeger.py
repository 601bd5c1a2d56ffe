"""Jaeger's query API, asked by trace id alone: searches differ from release to release, this does not."""

from __future__ import annotations

from collections.abc import Iterable

from ..events.errors import StoreUnreachable
from .otlp_json import read_otlp_json
from .tree import SpanRow

SECONDS = 5.0
"""How long an answer may take."""


def fetch_spans(url: str, trace_ids: Iterable[int]) -> list[SpanRow]:
    """Ask Jaeger for traces; one that it does not know has no spans.

    Args:
        url: base URL of its page, e.g. http://127.0.0.1:16686.
        trace_ids: which.

    Raises:
        StoreUnreachable: it does not answer, or not as Jaeger does.
    """
    import httpx  # a quarter of a second to import: only where somebody asks

    rows: list[SpanRow] = []
    try:
        with httpx.Client(base_url=url.rstrip("/"), timeout=SECONDS) as client:
            for trace in trace_ids:
                answer = client.get(f"/api/v3/traces/{trace:032x}")
                if answer.status_code != 404:
                    answer.raise_for_status()
                    rows += read_otlp_json(answer.json()["result"])
    except httpx.HTTPStatusError as error:
        raise StoreUnreachable(f"Jaeger at {url} answers {error.response.status_code} when asked for a trace") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise StoreUnreachable(f"Jaeger at {url} cannot be asked: {type(error).__name__}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise StoreUnreachable(f"what answers at {url} is no Jaeger; CHOREO_JAEGER names its page") from None
    return rows
