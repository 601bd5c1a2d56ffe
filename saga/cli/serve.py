"""`saga serve`: the web view, or the HTTP gateway; and the webhook beside them or alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ...events import loops
from ...events.errors import ConfigurationError
from . import exits
from .shell import Shell

if TYPE_CHECKING:
    from ...events.event import Event
    from ...events.gateway import Gateway
    from ...events.settings import Settings
    from ...events.transport import Transport
    from ...services.health import Health
    from ...services.probes import Probes
    from ...tracing.metrics import Metrics
    from ..running import Process
    from ..serving import App, Serving
    from ..web.app import WebView
    from ..webhook import Webhook

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""What a caller on this machine calls it."""

_HIDDEN = Parameter(negative="", show_default=False)


def serve(
    *targets: str,
    web: Annotated[bool, _HIDDEN] = False,
    gateway: Annotated[bool, _HIDDEN] = False,
    webhook: Annotated[str, Parameter(show_default=False)] = "",
    alert_webhook: Annotated[str, Parameter(show_default=False)] = "",
    host: str = "127.0.0.1",
    port: int = 8080,
    role: Literal["viewer", "operator", "admin"] = "viewer",
    certificate: Annotated[Path | None, Parameter(show_default=False)] = None,
    key: Annotated[Path | None, Parameter(show_default=False)] = None,
    health: Annotated[str, Parameter(show_default=False)] = "",
    shell: Annotated[Shell, Parameter(parse=False)],
) -> int:
    """Serve the web view of sagas; or events and sagas over HTTP; and post ends of sagas, and alerts, to URLs.

    For example: saga serve; saga serve --gateway shop.py:OrderPlaced

    Without more it is the web view: lists, graphs, dead letters, approvals, live. Who reaches it may only look, unless
    --role says more, or CHOREO_WEB_TOKENS who may do what; beyond loopback it wants these.

    The gateway: POST /events publishes CloudEvents; GET /sagas/TYPE/KEY?wait=30 tells how a saga stands, once it has
    ended. Beyond loopback it asks for one of CHOREO_GATEWAY_TOKENS.

    Ctrl-C or SIGTERM ends it once what was asked is answered.

    Args:
        targets: what may be published, module:object or path/file.py:object: Event classes; a Service or a Saga stands
            for the events that it takes, a module for the Event classes that it holds. The web view lets an admin
            publish them in place of a dead letter's handler.
        web: the web view also beside --webhook.
        gateway: answer HTTP requests of other systems.
        webhook: post every saga's end to this URL, signed with CHOREO_WEBHOOK_SECRET.
        alert_webhook: post every alert to this URL, signed in the same way.
        host: address to listen at.
        port: 0 takes a free one.
        role: of everybody who reaches the web view, where no tokens and no proxies are set.
        certificate: PEM file, for https.
        key: PEM file of its key.
        health: answer /healthz, /readyz and /metrics at HOST:PORT, or at PORT on 127.0.0.1.
    """
    from ..publishable import load_events

    web = web or not (gateway or webhook or alert_webhook)
    if web and gateway:
        raise ConfigurationError("--web and --gateway each want an address of their own; start saga serve twice")
    if targets and not (gateway or web):
        raise ConfigurationError("targets say what may be published; add --gateway, or --web")
    if (certificate is None) != (key is None):
        raise ConfigurationError("https needs both --certificate and --key")
    events = load_events(targets)  # before there is a loop: a module may do at its import what it likes
    settings = shell.settings
    view = _web_view(settings, host, role, events) if web else None
    if gateway and not _is_loopback(host) and not settings.gateway_token_list:
        raise ConfigurationError(
            f"at {host} everybody could publish: set CHOREO_GATEWAY_TOKENS, or stay at the default, --host 127.0.0.1"
        )
    if gateway:
        from ...events.bearer import Bearer

        Bearer(settings.gateway_token_list)  # what is wrong with a token is told before anything is opened
    hooks = []
    for url, alerts in ((webhook, False), (alert_webhook, True)):
        if url:
            from ..webhook import Webhook

            hooks.append(Webhook(url, settings.webhook_secret.get_secret_value(), alerts=alerts))
    from ...tracing.metrics import exported_metrics

    listening = _listen(host, port) if gateway or web else None
    address = health or settings.health
    name = "choreo-web" if web else "choreo-gateway" if gateway else "choreo-webhook"
    try:
        with exported_metrics(name, scraped=bool(address)) as metrics:
            return loops.run(_serve(shell, events, hooks, view, listening, certificate, key, address, metrics))
    finally:
        if listening is not None:
            listening.close()


async def _serve(
    shell: Shell,
    events: list[type[Event]],
    hooks: list[Webhook],
    view: WebView | None,
    listening: socket.socket | None,
    certificate: Path | None,
    key: Path | None,
    health: str,
    metrics: Metrics | None,
) -> int:
    from ...events.transports import connect
    from .run import stop_on_signal

    stopping = stop_on_signal()
    settings = shell.settings
    async with AsyncExitStack() as stack:
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(stopping.wait())]
        if hooks or view is None:  # the web view works with the broker down, and says so
            transport = await stack.enter_async_context(connect(settings.broker_url, settings))
        posting = await _post(shell, hooks, transport, stack, metrics) if hooks else None
        if posting is not None:
            tasks.append(asyncio.create_task(posting.wait()))
        if listening is not None:
            app: App
            if view is None:
                app, end_waiting = _gateway(shell, events, transport, listening, metrics)
            else:
                app, end_waiting = view, view.feed.end
                if metrics is not None:
                    metrics.meters.observe("choreo.web.streams", lambda: iter([(float(view.feed.clients), {})]))
            serving = _serving(app, end_waiting, listening, certificate, key, metrics)
            await stack.enter_async_context(serving)
            tasks.append(asyncio.create_task(serving.wait()))
        probes = await _probes(health, view, posting, metrics, stack)
        where = f"{probes.host}:{probes.port}" if probes is not None else ""
        _announce(shell, events, hooks, view, listening, certificate is not None, where)
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if probes is not None:
            probes.stopping = True
        if stopping.is_set():
            shell.hint("stopping: answering what was asked; once more to stop at once")
        for task in done:
            task.result()
    return exits.OK


async def _post(
    shell: Shell, hooks: list[Webhook], transport: Transport, stack: AsyncExitStack, metrics: Metrics | None
) -> Process:
    """Run the webhooks' services."""
    from ..loading import Parts
    from ..running import Process

    settings = shell.settings
    embedded = not settings.broker_url.startswith("kafka:")
    for hook in hooks:
        await stack.enter_async_context(hook)
    parts = Parts(tuple(hook.service for hook in hooks))
    meters = metrics.meters if metrics is not None else None
    return await stack.enter_async_context(Process(parts, transport, settings, create_topics=embedded, meters=meters))


def _gateway(
    shell: Shell,
    events: list[type[Event]],
    transport: Transport,
    listening: socket.socket,
    metrics: Metrics | None,
) -> tuple[Gateway, Callable[[], None]]:
    """Make the gateway; give it, and what lets those go who wait."""
    from ...events.gateway import Gateway
    from ...services.measured import MeasuredTransport
    from ..door import SagaDoor

    settings = shell.settings
    door = SagaDoor(settings)
    # Where no token is asked for, no web page that somebody looks at on this machine may speak to us either.
    hosts = None if settings.gateway_token_list else {*LOOPBACK, listening.getsockname()[0]}
    broker = MeasuredTransport(transport, metrics.meters) if metrics is not None else transport
    return Gateway(events, broker=broker, settings=settings, doors=[door], hosts=hosts), door.end_waiting


def _serving(
    app: App,
    end_waiting: Callable[[], None],
    listening: socket.socket,
    certificate: Path | None,
    key: Path | None,
    metrics: Metrics | None,
) -> Serving:
    """Serve an app, measured where metrics are on."""
    from ..serving import Serving

    if metrics is not None:
        from ..measured_app import MeasuredApp

        app = MeasuredApp(app, metrics.meters)
    return Serving(app, end_waiting, listening, certificate=certificate, key=key)


async def _probes(
    address: str, view: WebView | None, posting: Process | None, metrics: Metrics | None, stack: AsyncExitStack
) -> Probes | None:
    """Answer probes and scrapes, where somebody wants to."""
    if not address:
        return None
    from ...services.probes import Probes, scraping

    async def look() -> Sequence[Health]:
        if view is not None:
            await view.reach()
        return await posting.health() if posting is not None else []

    async def measure() -> None:
        if posting is not None:
            await posting.measure()

    text = scraping(measure, metrics) if metrics is not None else None
    return await stack.enter_async_context(Probes(address, look, posting.size if posting is not None else 0, text))


def _web_view(settings: Settings, host: str, role: str, events: list[type[Event]]) -> WebView:
    """Make the web view.

    Raises:
        ConfigurationError: everybody could look, or a setting is wrong.
    """
    try:
        from ..web.app import WebView
        from ..web.visitors import Role
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "starlette", "uvicorn"):
            raise
        raise ConfigurationError("the web view needs pip install 'choreo[web]'") from None
    if not _is_loopback(host) and not settings.web_tokens.get_secret_value() and not settings.web_proxies:
        raise ConfigurationError(
            f"at {host} everybody could look: set CHOREO_WEB_TOKENS or CHOREO_WEB_PROXIES, "
            "or stay at the default, --host 127.0.0.1"
        )
    return WebView(settings, hosts={*LOOPBACK, host}, local=Role[role.upper()], events=events)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65_535:
        raise ConfigurationError(f"there is no port {port}; choose another --port (0 takes a free one)")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigurationError(
            f"cannot listen at {host}:{port}: {reason}; choose another --port (0 takes a free one) or --host"
        ) from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _announce(
    shell: Shell,
    events: list[type[Event]],
    hooks: list[Webhook],
    view: WebView | None,
    listening: socket.socket | None,
    secure: bool,
    health: str,
) -> None:
    """Say in one line what is served, and where."""
    from ...events.database import redacted
    from .logs import as_json

    told: dict[str, object] = {}
    if listening is not None:
        host, port = listening.getsockname()[:2]
        address = f"{'https' if secure else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
        told["gateway" if view is None else "web"] = address
        if view is None:
            told["takes"] = ", ".join(event.spec().type for event in events) or "no events"
        told["store"] = redacted(shell.settings.store_url)
    for hook in hooks:
        told["alerts" if hook.alerts else "webhook"] = hook.host
    told["broker"] = redacted(shell.settings.broker_url)
    if health:
        told["health"] = health
    if as_json():
        import structlog

        structlog.get_logger("choreo.serve").warning("serving", **told)
        return
    shell.hint("serving  " + " · ".join(f"{name} {value}" for name, value in told.items()))
