"""How a Kafka cluster is reached and trusted: its address, encryption and login, from the settings."""

from __future__ import annotations

import ipaddress
import ssl
from typing import Any

from .database import redacted
from .errors import ConfigurationError
from .settings import Settings

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def parse_address(url: str) -> list[str]:
    """Give the `host:port` of each broker of `kafka://host:port[,host:port]`; the port is 9092 if none is given.

    Raises:
        ConfigurationError: the address is malformed, or holds a password.
    """
    hosts = url.removeprefix("kafka://")
    if "@" in hosts:
        raise ConfigurationError(
            f"{redacted(url)!r}: the user and password of Kafka do not belong into the address; set CHOREO_KAFKA_USER "
            "and CHOREO_KAFKA_PASSWORD"
        )
    found = []
    for part in hosts.rstrip("/").split(","):
        host, colon, port = part.strip().rpartition(":") if not part.strip().endswith("]") else (part.strip(), "", "")
        if not colon:
            host, port = part.strip(), "9092"
        if hosts == url or not host or "/" in host or not (port.isascii() and port.isdigit() and int(port) < 65_536):
            raise ConfigurationError(f"{url!r} is not a Kafka address; write kafka://host:port[,host:port]")
        found.append(f"{host}:{port}")
    return found


def security_options(hosts: list[str], settings: Settings) -> dict[str, Any]:
    """Give the client's options for encryption and login.

    Raises:
        ConfigurationError: a setting is wrong or missing, or the connection would be readable by others.
    """
    protocol = settings.kafka_security.upper()
    if protocol not in _PROTOCOLS:
        raise ConfigurationError(f"CHOREO_KAFKA_SECURITY is {protocol!r}; it must be one of {', '.join(_PROTOCOLS)}")
    far = [host for host in hosts if not _is_loopback(host)]
    if protocol.endswith("PLAINTEXT") and far and not settings.kafka_allow_plaintext:
        raise ConfigurationError(
            f"the connection to {far[0]} would not be encrypted; set CHOREO_KAFKA_SECURITY=SASL_SSL (or SSL), or "
            "CHOREO_KAFKA_ALLOW_PLAINTEXT=true in a network that you trust"
        )
    options: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
    if protocol.startswith("SASL"):
        mechanism, password = settings.kafka_mechanism.upper(), settings.kafka_password.get_secret_value()
        if mechanism not in _MECHANISMS:
            raise ConfigurationError(
                f"CHOREO_KAFKA_MECHANISM is {mechanism!r}; it must be one of {', '.join(_MECHANISMS)}"
            )
        if not settings.kafka_user or not password:
            raise ConfigurationError(f"{protocol} needs CHOREO_KAFKA_USER and CHOREO_KAFKA_PASSWORD")
        options |= {
            "sasl_mechanism": mechanism,
            "sasl_plain_username": settings.kafka_user,
            "sasl_plain_password": password,
        }
    return options


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"CHOREO_KAFKA_CA {settings.kafka_ca} cannot be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.kafka_certificate is not None:
        try:
            context.load_cert_chain(settings.kafka_certificate, settings.kafka_key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"CHOREO_KAFKA_CERTIFICATE {settings.kafka_certificate} (with CHOREO_KAFKA_KEY) cannot be used: {error}"
            ) from error
    return context


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
