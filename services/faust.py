"""Faust agents that take part: their values are events of choreo, and what they yield belongs to the same saga.

`App` is a `faust.App`, with everything that one has. `@app.on(CardDeclined)` declares an agent that takes part:
duplicates are dropped by the inbox, outputs carry cause and saga under derived ids, a failure becomes a dead letter and
`HandlerFailed`. Outputs go through the store's outbox, not through Faust's producer. What Faust keeps in tables is not
part of that transaction (docs/faust.md).
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from typing import Any, TypeVar, Union, get_args, get_origin

import faust
import structlog
from faust.types import TP

from ..events.envelope import Delivery, TopicPartition
from ..events.errors import ChoreoError, ConfigurationError, DefinitionError
from ..events.event import Event
from ..events.kafka_security import parse_address, security_options
from ..events.settings import Settings, load_settings
from .driven import Driven
from .health import Health
from .probes import Probes
from .retry import Retry
from .service import DEFAULT, Default, Service
from .signature import Hints, events_of
from .stepping import Feeder, Stream

__all__ = ["App", "Stream"]

F = TypeVar("F", bound=Callable[..., Any])

_MANY = (AsyncIterator, AsyncGenerator, AsyncIterable)
_RETRY = Retry(attempts=3, first="200ms", most="1s")
_UNSAFE = ("key_serializer", "value_serializer")
_LOOK = 10.0
"""Seconds between two looks at what Faust has committed."""

log = structlog.get_logger("choreo.services")


class App(faust.App):
    """A Faust app that is a service of choreo: run it with `faust -A module worker`.

    Broker, login, topic prefix, registry and store are those of choreo's settings; the consumer group is the name's.

    Args:
        name: the service's, as of any `Service`.
        settings: default: from the environment.
        store: where its inbox and outbox are, as of a `Service`; there is always one.
        options: of `faust.App`.

    Raises:
        ConfigurationError: an option would break what choreo promises, or a setting of the broker is wrong.
        DefinitionError: the name, or the store, cannot be a service's.
    """

    def __init__(
        self, name: str, *, settings: Settings | None = None, store: str | Default = DEFAULT, **options: Any
    ) -> None:
        self._settings = settings = settings or load_settings()
        self.service_of_choreo = Service(name, store=store)
        self._feeders: list[Feeder[Event]] = []
        self._runs = False
        self._probes: Probes | None = None
        _refuse(options)
        chosen = {
            **_broker(settings),
            "datadir": settings.home / f"{name}-faust",
            "web_enabled": False,
            "worker_redirect_stdouts": False,
            "consumer_auto_offset_reset": "earliest",
            "producer_acks": -1,
            "topic_partitions": 4,
            **options,
        }
        super().__init__(settings.topic_prefix + name, **chosen)
        self._driven = Driven(self.service_of_choreo, settings)
        self.service_of_choreo.lifespan(self._only_as_faust)
        self.timer(_LOOK, name="choreo-commits")(self._remind)

    async def _only_as_faust(self) -> AsyncIterator[None]:
        if not self._runs:
            name = self.service_of_choreo.name
            raise ConfigurationError(f"{name} is a Faust app; run it with `faust -A MODULE worker`, not with saga run")
        yield

    def on(self, *events: type[Event], retry: Retry | None = None, name: str | None = None) -> Callable[[F], F]:
        """Declare an agent that takes part; the function itself stays as it is, to be called like any other.

        It takes a `Stream` of the events and is an async generator of those that it publishes, annotated
        `-> AsyncIterator[FraudSuspected]`; or a coroutine function, `-> None`. What it yields between one event and
        the next follows from the first of them.

        Args:
            events: the event classes that it takes.
            retry: default: three attempts from 200 ms to 1 s; the partitions of this process wait meanwhile.
            name: default: the function's name.

        Raises:
            DefinitionError: naming the agent and the remedy.
        """
        frame = inspect.currentframe()
        caller = frame.f_back if frame is not None else None
        scope = dict(caller.f_locals) if caller is not None else {}
        del frame, caller

        def declare(function: F) -> F:
            self._declare(function, events, retry, name, scope)
            return function

        return declare

    def _declare(
        self,
        function: Callable[..., Any],
        events: tuple[type[Event], ...],
        retry: Retry | None,
        name: str | None,
        scope: dict[str, Any],
    ) -> None:
        service = self.service_of_choreo
        chosen = name or str(getattr(function, "__name__", ""))
        where = f"{service.name}.{chosen}"
        produces = _produced(function, where, scope)
        feeder: Feeder[Event] = Feeder(function, where)

        async def feed(event: Any) -> Any:
            return await feeder.feed(event)

        feed.__annotations__ = {
            "event": Union[events] if events else Any,  # noqa: UP007 - of a tuple
            "return": list[Union[produces]] if produces else None,  # type: ignore[valid-type]  # noqa: UP007
        }
        service.on(*events, retry=retry or _RETRY, name=chosen)(feed)
        self._feeders.append(feeder)
        prefix = self._settings.topic_prefix
        topics = sorted({prefix + event.spec().topic for event in events})
        raw = self.topic(
            *topics, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", allow_empty=True
        )

        async def run(stream: Any) -> None:
            # Faust acknowledges an event when the next one is asked for: by then it is durable.
            async for event in stream.events():
                if await self._driven.handle(_delivery(event.message, prefix), where):
                    # Faust takes no second acknowledgement, and would wait for it at a rebalance and at its end.
                    self.consumer.unacked.discard(event.message)

        self.agent(raw, name=where)(run)

    def _places(self) -> list[TopicPartition] | None:
        """Give the partitions of this service's topics that Faust reads now; None while it is in no group."""
        if not self._runs or self.rebalancing or not self.rebalancing_count:
            return None
        prefix, topics = self._settings.topic_prefix, set(self.service_of_choreo.consumes)
        assigned = (TopicPartition(tp.topic.removeprefix(prefix), tp.partition) for tp in self.consumer.assignment())
        return sorted(place for place in assigned if place.topic in topics)

    async def _look(self) -> list[Health]:
        return [await self._driven.health(self._places())]

    async def _remind(self) -> None:
        """Have Faust read again what it has forgotten to commit; the inbox drops it, and then it is committed."""
        try:
            forgotten = await self._driven.forgotten(self._places() or ())
        except ChoreoError as error:
            log.warning("offsets cannot be looked at", service=self.service_of_choreo.name, error=error.message)
            return
        for place, offset in forgotten.items():
            log.warning(
                "Faust does not commit what was handled, and reads it again",
                service=self.service_of_choreo.name,
                topic=place.topic,
                partition=place.partition,
                offset=offset,
            )
            await self.consumer.seek(TP(self._settings.topic_prefix + place.topic, place.partition), offset)

    async def on_first_start(self) -> None:
        """Open the store and announce the service, before Faust joins its group."""
        if not self._settings.broker_url.startswith("kafka://"):
            raise ConfigurationError("Faust needs a Kafka; set CHOREO_BROKER=kafka://host:port")
        self._runs = True
        if self._settings.health:
            self._probes = await Probes(self._settings.health, self._look, 1).__aenter__()
        await self._driven.open()
        await super().on_first_start()

    async def on_shutdown(self) -> None:
        """Commit what has run, after the agents have stopped."""
        if self._probes is not None:
            self._probes.stopping = True
        for feeder in self._feeders:
            await feeder.close()
        await self._driven.close()
        if self._probes is not None:
            await self._probes.__aexit__()
        await super().on_shutdown()


def _delivery(message: Any, prefix: str) -> Delivery:
    headers = message.headers.items() if isinstance(message.headers, dict) else message.headers or ()
    return Delivery(
        message.topic.removeprefix(prefix),
        message.partition,
        message.offset,
        round((message.timestamp or 0) * 1_000),
        message.key,
        message.value,
        tuple((name, value) for name, value in headers),
    )


def _produced(function: Callable[..., Any], where: str, scope: dict[str, Any]) -> tuple[type[Event], ...]:
    annotation = inspect.signature(function).return_annotation
    hint = Hints(function, where, scope).of("return", annotation)
    if inspect.isasyncgenfunction(function):
        if get_origin(hint) in _MANY and (found := events_of(get_args(hint)[0])):
            for each in found:
                each.spec()  # an abstract class cannot be published; its message says so
            return found
        raise DefinitionError(f"{where}: say what it publishes; annotate the return `-> AsyncIterator[SomeEvent]`")
    if not inspect.iscoroutinefunction(function):
        raise DefinitionError(f"{where}: an agent is an async generator or a coroutine function; write `async def`")
    if hint is not None and hint is not type(None):
        raise DefinitionError(f"{where}: an agent publishes what it yields; annotate the return `-> None`, or yield")
    return ()


def _refuse(options: dict[str, Any]) -> None:
    if (
        str(getattr(options.get("processing_guarantee"), "value", options.get("processing_guarantee")))
        == "exactly_once"
    ):
        raise ConfigurationError(
            "processing_guarantee='exactly_once' of Faust is not supported: it stalls and crashes on rebalances; "
            "leave it out, duplicates are dropped by the inbox"
        )
    for name in _UNSAFE:
        if "pickle" in str(options.get(name)):
            raise ConfigurationError(f"{name}='pickle' would run code that a message brings; leave it out")


def _broker(settings: Settings) -> dict[str, Any]:
    if not settings.broker_url.startswith("kafka://"):
        return {}  # told at the start: a module can be read and checked without a broker
    hosts = parse_address(settings.broker_url)
    security = security_options(hosts, settings)
    options: dict[str, Any] = {"broker": [f"kafka://{host}" for host in hosts]}
    context = security.get("ssl_context")
    if "sasl_mechanism" in security:
        options["broker_credentials"] = faust.SASLCredentials(
            username=security["sasl_plain_username"],
            password=security["sasl_plain_password"],
            mechanism=security["sasl_mechanism"],
            ssl_context=context,
        )
    elif context is not None:
        options["broker_credentials"] = faust.SSLCredentials(context)
    if settings.session is not None:
        options["broker_session_timeout"] = settings.session
        options["broker_heartbeat_interval"] = settings.session / 4
    return options
