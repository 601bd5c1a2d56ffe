"""Settings: from `CHOREO_*` environment variables and `choreo.toml` beside the program; flags override both.

The OpenTelemetry exporter reads its own standard `OTEL_*` variables (OpenTelemetry specification, SDK environment
variables).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from .clock import SECOND, duration
from .compatibility import Level
from .contexts import read_contexts
from .errors import ConfigurationError, DefinitionError

_LEAST_KEPT = duration("8d")
"""Kafka keeps the records of a topic for seven days, unless told otherwise."""


class Settings(BaseSettings):
    """Where the broker and the stores are, and how to reach them."""

    model_config = SettingsConfigDict(env_prefix="CHOREO_", extra="ignore", frozen=True)

    context: str = Field(default="", description="Which context of choreo.toml is in use; its settings fill in others.")
    home: Path = Field(default=Path(".choreo"), description="Folder of the embedded broker and the default stores.")
    broker: str = Field(
        default="", description="kafka://host:port[,host:port], local:PATH or memory: (default: local:HOME/broker.db)."
    )
    store: str = Field(
        default="",
        description="The coordinator's store: sqlite:PATH or postgresql://... (default: sqlite:HOME/saga.db).",
    )
    service_store: str = Field(
        default="", description="Store of a service, {name} stands for its name (default: sqlite:HOME/{name}.db)."
    )
    outbox: str = Field(
        default="",
        description="The database of an existing system whose outbox `saga relay` publishes: postgresql://..., "
        "mysql://... (MariaDB too) or sqlite:PATH.",
    )
    namespace: str = Field(default="", description="Keeps two deployments apart in one Jaeger; part of every trace id.")
    topic_prefix: str = Field(default="", description="Put before every topic and group name, one per environment.")
    group: str = Field(default="choreo.coordinator", description="Consumer group of the coordinators.")
    shard: str = Field(
        default="",
        description="Which of several shards this is, 2/4: its coordinators keep the sagas of its keys, in a store and "
        "a group (CHOREO_GROUP.shard-2-of-4) of their own.",
    )
    session: float | None = Field(
        default=None,
        gt=0,
        description="Seconds without a sign of life until a consumer's work is taken over (Kafka: 30, embedded: 10).",
    )
    retention: str = Field(
        default="90d",
        description="How long ended sagas' histories and commands and what handlers have met are kept: longer than "
        "topics keep events and dead letters are sent again; `forever` or `0`: all. Sagas stay four times as long.",
    )
    registry: str = Field(
        default="", description="URL of a Confluent-compatible schema registry (default: the embedded one)."
    )
    registry_user: str = ""
    registry_password: SecretStr = SecretStr("")
    registry_token: SecretStr = Field(default=SecretStr(""), description="Bearer token, instead of user and password.")
    registry_ca: Path | None = Field(
        default=None, description="PEM file of the authorities that sign the registry's certificate."
    )
    registry_certificate: Path | None = Field(
        default=None, description="PEM file of the client's certificate, for mutual TLS."
    )
    registry_key: Path | None = Field(default=None, description="PEM file of the client's key.")
    registry_timeout: float = Field(default=10.0, gt=0, description="Seconds for one request to the registry.")
    registry_allow_plaintext: bool = Field(
        default=False, description="Allow sending credentials over http to another machine."
    )
    compatibility: Level = Field(
        default="BACKWARD", description="What a new schema must keep: BACKWARD, FORWARD, FULL, ..._TRANSITIVE, or NONE."
    )
    keys: SecretStr = Field(
        default=SecretStr(""),
        description="Keys of encrypted events, id=base64[,id=base64]: 32 bytes each; the first one encrypts.",
    )
    key_provider: str = Field(
        default="", description="module:function that gives the keys by id instead, e.g. from a key service."
    )
    kafka_security: str = Field(
        default="PLAINTEXT", description="PLAINTEXT (loopback only unless allowed), SSL, SASL_SSL or SASL_PLAINTEXT."
    )
    kafka_allow_plaintext: bool = Field(
        default=False, description="Allow an unencrypted connection to another machine."
    )
    kafka_mechanism: str = Field(default="SCRAM-SHA-512", description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.")
    kafka_user: str = ""
    kafka_password: SecretStr = SecretStr("")
    kafka_ca: Path | None = Field(
        default=None, description="PEM file of the authorities that sign the brokers' certificates."
    )
    kafka_certificate: Path | None = Field(
        default=None, description="PEM file of the client's certificate, for mutual TLS."
    )
    kafka_key: Path | None = Field(default=None, description="PEM file of the client's key.")
    gateway_tokens: SecretStr = Field(
        default=SecretStr(""),
        description="Bearer tokens of the HTTP gateway, joined by commas; none lets all in.",
    )
    gateway_body: int = Field(default=1_048_576, gt=0, description="Bytes of a request to the HTTP gateway at most.")
    web_tokens: SecretStr = Field(
        default=SecretStr(""),
        description="Who may use the web view: role:name=token[,role:name=token], roles viewer, operator and admin.",
    )
    web_proxies: str = Field(
        default="", description="Addresses and networks of proxies whose headers say who uses the web view."
    )
    web_user_header: str = Field(default="x-forwarded-user", description="The proxy's header with the user's name.")
    web_role_header: str = Field(default="x-forwarded-role", description="The proxy's header with the user's role.")
    web_hosts: str = Field(
        default="", description="Names under which the web view may be called, beside the address that it listens at."
    )
    webhook_secret: SecretStr = Field(default=SecretStr(""), description="Signs what the webhook is sent.")
    health: str = Field(
        default="", description="Where `saga run` answers /healthz and /readyz: HOST:PORT, or PORT on 127.0.0.1."
    )
    web: str = Field(
        default="", description="Base URL of the web view (`saga serve`), for links such as http://127.0.0.1:8080."
    )
    jaeger: str = Field(
        default="",
        description="Base URL of Jaeger, e.g. http://127.0.0.1:16686: for links, and `saga trace` asks it for spans.",
    )
    trace_rotation: str = Field(
        default="24h",
        description="After how long the trace of a saga that still runs goes on in another one; `never`: one for ever.",
    )
    trace_slow: str = Field(
        default="never",
        description="How long a saga may take until its trace is shown although it was not sampled, or `never`.",
    )

    stuck: str = Field(
        default="15m",
        description="How long a saga may wait for something that is wrong until an alert calls it stuck, or `never`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _shards_have_groups_of_their_own(cls, values: dict[str, Any]) -> dict[str, Any]:
        number, _, of = str(values.get("shard") or "").partition("/")
        if not of:
            return values
        group = values.get("group") or cls.model_fields["group"].default
        return {**values, "group": f"{group}.shard-{number}-of-{of}"}

    @field_validator("shard")
    @classmethod
    def _is_one_of_several(cls, value: str) -> str:
        found = re.fullmatch(r"([1-9][0-9]{0,2})/([1-9][0-9]{0,2})", value)
        if value and (found is None or not int(found[1]) <= int(found[2]) or found[2] == "1"):
            raise ValueError("write one of several shards as 2/4")
        return value

    @field_validator("topic_prefix")
    @classmethod
    def _prefix_is_a_topic_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._-]{0,100}", value):
            raise ValueError("a topic prefix may hold letters, digits, '.', '_' and '-'")
        return value

    @field_validator("trace_rotation", "trace_slow", "stuck")
    @classmethod
    def _is_a_duration_or_never(cls, value: str) -> str:
        try:
            long_enough = value == "never" or duration(value) >= SECOND
        except DefinitionError:
            long_enough = False
        if not long_enough:
            raise ValueError("write a duration of at least 1s, such as 24h, or `never`")
        return value

    @field_validator("retention")
    @classmethod
    def _retention_is_long_enough(cls, value: str) -> str:
        if value == "0":
            return "forever"
        try:
            kept = None if value == "forever" else duration(value)
        except DefinitionError:
            raise ValueError("write a duration such as 90d, or `forever`") from None
        if kept is not None and kept < _LEAST_KEPT:
            raise ValueError("at least 8d: a copy of an event that a topic still holds must not count as new")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = read_contexts()
        flag = init_settings().get("context")  # who names a context means it, whatever the environment says
        name = flag or env_settings().get("context") or file.current
        named = file.of(str(name))
        if wrong := sorted(set(named) - set(settings_cls.model_fields)):
            raise ConfigurationError(f"choreo.toml: {wrong[0]!r} in context {name!r} is no setting")
        context = InitSettingsSource(settings_cls, dict(named))
        rest = InitSettingsSource(settings_cls, dict(file.values))
        return (init_settings, context, env_settings, rest) if flag else (init_settings, env_settings, context, rest)

    @property
    def broker_url(self) -> str:
        """The broker's address, the default filled in."""
        return self.broker or f"local:{self.home / 'broker.db'}"

    @property
    def store_url(self) -> str:
        """The coordinator's store, the default filled in."""
        return self.store or f"sqlite:{self.home / 'saga.db'}"

    @property
    def kept(self) -> int | None:
        """How long is kept what has ended, in microseconds; None for ever."""
        return None if self.retention == "forever" else duration(self.retention)

    @property
    def rotation(self) -> int | None:
        """After how long a saga's trace goes on in another one, in microseconds; None never."""
        return None if self.trace_rotation == "never" else duration(self.trace_rotation)

    @property
    def stuck_after(self) -> int | None:
        """How long a saga must have waited to be called stuck, in microseconds; None: nobody looks."""
        return None if self.stuck == "never" else duration(self.stuck)

    @property
    def slow(self) -> int | None:
        """From how long on a saga counts as slow for its trace, in microseconds; None never."""
        return None if self.trace_slow == "never" else duration(self.trace_slow)

    @property
    def gateway_token_list(self) -> list[str]:
        """The gateway's bearer tokens, one by one."""
        return [token for part in self.gateway_tokens.get_secret_value().split(",") if (token := part.strip())]

    def service_store_url(self, name: str) -> str:
        """The store of the service `name`."""
        return (self.service_store or f"sqlite:{self.home}/{{name}}.db").replace("{name}", name)


def load_settings(**overrides: object) -> Settings:
    """Read the settings; `overrides` (flags) win, None and "" mean not given.

    Raises:
        ConfigurationError: naming the setting that is wrong, and why.
    """
    given = {name: value for name, value in overrides.items() if value not in (None, "")}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"setting CHOREO_{name.upper()}: {first['msg']}") from None
