"""Who looks at the web view, and what they may do: by a token, or as a proxy that is trusted says."""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from enum import IntEnum
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from ...events.bearer import LEAST_TOKEN
from ...events.errors import ConfigurationError

SESSION_SECONDS = 12 * 3_600
_MOST_SESSIONS = 1_000
_MOST_FAILURES = 20
_FAILURES_WITHIN = 60.0
_MOST_NAME = 80


class Role(IntEnum):
    """What somebody may do; each may do what the one before may."""

    VIEWER = 1
    """Look, without payloads."""
    OPERATOR = 2
    """Answer for one saga or one dead letter: approve, reject, dismiss, cancel, retry; see payloads, secrets masked."""
    ADMIN = 3
    """What concerns everything, or cannot be taken back: stop and resume, mark as undone, discard."""

    @property
    def word(self) -> str:
        """As it is written in settings."""
        return self.name.lower()


class Visitor(NamedTuple):
    """Somebody: the name for the record, and the role."""

    name: str
    role: Role


class Tokens:
    """Knows who has which token, by digests.

    Args:
        text: `role:name=token`, joined by commas.

    Raises:
        ConfigurationError: one is not written so, or is short enough to be guessed.
    """

    def __init__(self, text: str) -> None:
        self._known: list[tuple[bytes, Visitor]] = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            self._known.append(_token(part))

    def __bool__(self) -> bool:
        return bool(self._known)

    def visitor(self, token: str) -> Visitor | None:
        """Say whose token it is; None where it is nobody's. The time it takes tells nothing."""
        given = sha256(token.encode()).digest()
        found = None
        for digest, visitor in self._known:
            if hmac.compare_digest(digest, given):
                found = visitor
        return found


class Visitors:
    """Tells visitors by what a request carries.

    Args:
        tokens: `role:name=token`, joined by commas.
        proxies: addresses and networks, joined by commas, whose headers are believed.
        user_header, role_header: those headers.
        local: the role of whoever reaches us where neither tokens nor proxies are set; None lets nobody in.

    Raises:
        ConfigurationError: a token, an address or a header's name is none.
    """

    def __init__(
        self,
        tokens: str = "",
        proxies: str = "",
        user_header: str = "x-forwarded-user",
        role_header: str = "x-forwarded-role",
        local: Role | None = None,
    ) -> None:
        self._tokens = Tokens(tokens)
        self._proxies = _networks(proxies)
        self._user_header, self._role_header = user_header.lower(), role_header.lower()
        self._local = None if self._tokens or self._proxies else local
        self._key = secrets.token_bytes(32)
        self._sessions: OrderedDict[str, tuple[Visitor, float]] = OrderedDict()
        self._failures: list[float] = []

    @property
    def guarded(self) -> bool:
        """Whether somebody must say who they are."""
        return bool(self._tokens or self._proxies)

    @property
    def by_token(self) -> bool:
        """Whether one may sign in with a token."""
        return bool(self._tokens)

    def told_by_proxy(self, address: str, headers: Mapping[str, str]) -> Visitor | None:
        """Believe what a trusted proxy says; what others write into its headers is nothing."""
        try:
            found = ip_address(address)
        except ValueError:
            return None
        if not any(found in network for network in self._proxies):
            return None
        name, role = headers.get(self._user_header, "").strip(), headers.get(self._role_header, "").strip().lower()
        if not name or len(name) > _MOST_NAME or not name.isprintable():
            return None
        words = [each for each in Role if each.word == role]
        return Visitor(name, words[0]) if words else None

    def told_by_token(self, authorization: str) -> Visitor | None:
        """Read `Authorization: Bearer TOKEN`."""
        scheme, _, token = authorization.partition(" ")
        return self._tokens.visitor(token.strip()) if scheme.lower() == "bearer" else None

    def told_by_session(self, visit: str) -> Visitor | None:
        """Give who signed in under this visit."""
        found = self._sessions.get(_digest(visit)) if visit else None
        if found is None or found[1] < time.monotonic():
            return None
        return found[0]

    @property
    def local(self) -> Visitor | None:
        """Whoever reaches us where nobody need say who they are."""
        return None if self._local is None else Visitor("local", self._local)

    def sign_in(self, token: str) -> str | None:
        """Begin a session; give its new visit, None where the token is nobody's.

        Raises:
            ConfigurationError: too many have failed within a minute.
        """
        now = time.monotonic()
        self._failures = [at for at in self._failures if at > now - _FAILURES_WITHIN]
        if len(self._failures) >= _MOST_FAILURES:
            raise ConfigurationError("too many tokens were wrong within a minute; wait for a minute")
        visitor = self._tokens.visitor(token.strip())
        if visitor is None:
            self._failures.append(now)
            return None
        visit = new_visit()
        self._sessions[_digest(visit)] = (visitor, now + SESSION_SECONDS)
        while len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return visit

    def sign_out(self, visit: str) -> None:
        """End a session."""
        self._sessions.pop(_digest(visit), None)

    def stamp(self, visit: str, visitor: Visitor | None) -> str:
        """Give what a form of this visit and visitor must carry: a page of somebody else cannot know it."""
        who = "" if visitor is None else visitor.name
        return hmac.new(self._key, f"{visit}\n{who}".encode(), sha256).hexdigest()

    def stamped(self, visit: str, visitor: Visitor | None, stamp: str) -> bool:
        """Tell whether a form came from a page of this visit and visitor."""
        return bool(visit) and hmac.compare_digest(self.stamp(visit, visitor).encode(), stamp.encode())


def new_visit() -> str:
    """Make the name of a visit, which nobody can guess."""
    return secrets.token_urlsafe(32)


def _digest(visit: str) -> str:
    return sha256(visit.encode()).hexdigest()


def _token(text: str) -> tuple[bytes, Visitor]:
    who, equals, token = text.partition("=")
    role, colon, name = who.strip().partition(":")
    roles = {each.word: each for each in Role}
    if not equals or not colon or role not in roles or not name.strip() or len(name) > _MOST_NAME:
        raise ConfigurationError(
            "a token of CHOREO_WEB_TOKENS is written role:name=token, with the role viewer, operator or admin, "
            "for example operator:alice=..."
        )
    token = token.strip()
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError(
            f"the token of {role}:{name} in CHOREO_WEB_TOKENS is no good: it needs {LEAST_TOKEN} printable ASCII "
            "characters or more, e.g. those of `openssl rand -hex 24`"
        )
    return sha256(token.encode()).digest(), Visitor(name.strip(), roles[role])


def _networks(text: str) -> list[IPv4Network | IPv6Network]:
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ip_network(part, strict=False))
        except ValueError:
            raise ConfigurationError(
                f"CHOREO_WEB_PROXIES: {part!r} is no address; write for example 10.0.0.7,10.1.0.0/16"
            ) from None
    return found
