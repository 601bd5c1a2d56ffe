"""choreo: independent async services react to Kafka events, a saga coordinator tracks, undoes and draws each process.

Everything public is imported from here; names are loaded when they are first used, so that `saga --help` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .events.envelope import Delivery, Envelope
    from .events.errors import (
        AmbiguousSaga,
        BrokerUnreachable,
        ChoreoError,
        ConfigurationError,
        DecodeError,
        DefinitionError,
        EncodeError,
        EventError,
        LimitExceeded,
        MissingKey,
        NotYet,
        Permanent,
        PositionLost,
        Refused,
        RegistryUnreachable,
        SagaError,
        SagaNotFound,
        SchemaRefused,
        StoreError,
        StoreMismatch,
        StoreUnreachable,
        TopicMissing,
        TransportError,
    )
    from .events.event import Event
    from .events.failures import HandlerFailed
    from .events.foreign import Foreign, header, value
    from .events.outboxes.outbox import Outbox
    from .events.publisher import BlockingPublisher, Publisher
    from .events.secret import Secret
    from .events.settings import Settings, load_settings
    from .events.source import Dated, in_time_order, publish_file
    from .saga.approval import approval
    from .saga.child import child
    from .saga.coordinator import Coordinator
    from .saga.lock import lock
    from .saga.policy import policy
    from .saga.saga import Saga
    from .saga.schedule import cron
    from .saga.step import any_of, step
    from .services.breaker import Breaker
    from .services.context import Context, Transaction
    from .services.dependencies import Depends
    from .services.ladder import retry_topic
    from .services.limits import Batch
    from .services.middleware import Answer, Call, Next
    from .services.retry import Retry
    from .services.service import Service

_HOME = {
    "Event": "events.event",
    "Foreign": "events.foreign",
    "header": "events.foreign",
    "value": "events.foreign",
    "Delivery": "events.envelope",
    "Envelope": "events.envelope",
    "HandlerFailed": "events.failures",
    "Secret": "events.secret",
    "Publisher": "events.publisher",
    "BlockingPublisher": "events.publisher",
    "Outbox": "events.outboxes.outbox",
    "Dated": "events.source",
    "in_time_order": "events.source",
    "publish_file": "events.source",
    "Settings": "events.settings",
    "load_settings": "events.settings",
    "Service": "services.service",
    "Retry": "services.retry",
    "Breaker": "services.breaker",
    "Batch": "services.limits",
    "retry_topic": "services.ladder",
    "Context": "services.context",
    "Transaction": "services.context",
    "Depends": "services.dependencies",
    "Call": "services.middleware",
    "Next": "services.middleware",
    "Answer": "services.middleware",
    "Saga": "saga.saga",
    "step": "saga.step",
    "any_of": "saga.step",
    "child": "saga.child",
    "approval": "saga.approval",
    "lock": "saga.lock",
    "cron": "saga.schedule",
    "policy": "saga.policy",
    "Coordinator": "saga.coordinator",
}

__all__ = [  # noqa: RUF022 - by use, errors last
    "Event",
    "Foreign",
    "header",
    "value",
    "Delivery",
    "Envelope",
    "Secret",
    "Publisher",
    "BlockingPublisher",
    "Outbox",
    "Dated",
    "in_time_order",
    "publish_file",
    "Service",
    "Retry",
    "Breaker",
    "Batch",
    "retry_topic",
    "Context",
    "Transaction",
    "Depends",
    "Call",
    "Next",
    "Answer",
    "HandlerFailed",
    "Saga",
    "step",
    "any_of",
    "child",
    "approval",
    "lock",
    "cron",
    "policy",
    "Coordinator",
    "Settings",
    "load_settings",
    "AmbiguousSaga",
    "BrokerUnreachable",
    "ChoreoError",
    "ConfigurationError",
    "DecodeError",
    "DefinitionError",
    "EncodeError",
    "EventError",
    "LimitExceeded",
    "MissingKey",
    "NotYet",
    "Permanent",
    "PositionLost",
    "Refused",
    "RegistryUnreachable",
    "SagaError",
    "SagaNotFound",
    "SchemaRefused",
    "StoreError",
    "StoreMismatch",
    "StoreUnreachable",
    "TopicMissing",
    "TransportError",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME.get(name, 'events.errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
