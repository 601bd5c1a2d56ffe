"""How a schema registry server is reached and trusted: its address, login and certificates, from the settings."""

from __future__ import annotations

import base64
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from .database import redacted
from .errors import ConfigurationError
from .settings import Settings

_NONE = SecretStr("")


@dataclass(frozen=True, kw_only=True)
class Access:
    """Where a registry is, and how to log in.

    Args:
        url: base URL, e.g. `http://127.0.0.1:8081` or `https://host/apis/ccompat/v7`.
        user, password: for basic authentication; both may be empty.
        token: for bearer authentication, instead of them.
        ca: PEM file of the authorities that sign the server's certificate; None takes the system's.
        certificate, key: PEM files of the client, for mutual TLS; the key may stand in the certificate's file.
        timeout: seconds for one request, from the first byte to the last.
        allow_plaintext: credentials may travel over http to another machine.

    Raises:
        ConfigurationError: something of this cannot work.
    """

    url: str
    user: str = ""
    password: SecretStr = _NONE
    token: SecretStr = _NONE
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    timeout: float = 10.0
    allow_plaintext: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Access:
        """Take it from the settings."""
        return cls(
            url=settings.registry,
            user=settings.registry_user,
            password=settings.registry_password,
            token=settings.registry_token,
            ca=settings.registry_ca,
            certificate=settings.registry_certificate,
            key=settings.registry_key,
            timeout=settings.registry_timeout,
            allow_plaintext=settings.registry_allow_plaintext,
        )

    def __post_init__(self) -> None:
        """Check the address, and that the credentials go together."""
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        if host is None or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
            raise ConfigurationError(
                f"{redacted(self.url)!r} is not a schema registry; write http://host:port or https://..."
            )
        if parts.username or parts.password:
            raise ConfigurationError("give the registry's user and password as CHOREO_REGISTRY_USER and ..._PASSWORD")
        if self.user and self.token.get_secret_value():
            raise ConfigurationError(
                "CHOREO_REGISTRY_USER and CHOREO_REGISTRY_TOKEN are both set; a request has one login"
            )
        if self.password.get_secret_value() and not self.user:
            raise ConfigurationError("CHOREO_REGISTRY_PASSWORD is set without CHOREO_REGISTRY_USER")
        if _is_link_local(host):
            raise ConfigurationError(f"{host} is a link-local address, where no schema registry is")
        if self.headers() and parts.scheme == "http" and not _is_loopback(host) and not self.allow_plaintext:
            raise ConfigurationError(
                f"the credentials for {host} would travel unencrypted; write https:// in CHOREO_REGISTRY, or set "
                "CHOREO_REGISTRY_ALLOW_PLAINTEXT=true in a network that you trust"
            )
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def headers(self) -> dict[str, str]:
        """Give the header that logs in; empty without credentials."""
        if self.user:
            pair = f"{self.user}:{self.password.get_secret_value()}".encode()
            return {"authorization": f"Basic {base64.b64encode(pair).decode()}"}
        token = self.token.get_secret_value()
        if not token:
            return {}
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigurationError(
                "CHOREO_REGISTRY_TOKEN holds a space, a line break or another character of no token"
            )
        return {"authorization": f"Bearer {token}"}

    def context(self) -> ssl.SSLContext:
        """Make the TLS context: host names are checked, and TLS 1.2 is the least.

        Raises:
            ConfigurationError: a file cannot be read, or holds no certificate.
        """
        try:
            context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        except OSError as error:  # ssl.SSLError is one
            reason = error.strerror or error
            raise ConfigurationError(f"cannot read the registry's CA file {self.ca}: {reason}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None:
            try:
                # An encrypted key would ask at the terminal: no password is an error instead.
                context.load_cert_chain(self.certificate, self.key, password="")
            except OSError as error:
                raise ConfigurationError(
                    f"CHOREO_REGISTRY_CERTIFICATE {self.certificate} (with CHOREO_REGISTRY_KEY) cannot be used: "
                    f"{error.strerror or error}"
                ) from None
        elif self.key is not None:
            raise ConfigurationError("CHOREO_REGISTRY_KEY is set without CHOREO_REGISTRY_CERTIFICATE")
        return context


def _is_loopback(host: str) -> bool:
    return host == "localhost" or _address(host, "is_loopback")


def _is_link_local(host: str) -> bool:
    return _address(host, "is_link_local")


def _address(host: str, kind: str) -> bool:
    try:
        return bool(getattr(ipaddress.ip_address(host), kind))
    except ValueError:
        return False
