"""Bearer tokens (RFC 6750): one of those that are known, compared in constant time."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from hashlib import sha256

from .errors import ConfigurationError
from .problems import Fault, Problem

LEAST_TOKEN = 16


class Bearer:
    """Knows who may come in, by the digests of their tokens.

    Args:
        tokens: the secrets; none lets everybody in.

    Raises:
        ConfigurationError: one is short enough to be guessed, or cannot stand in a header.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = [sha256(token.encode()).digest() for token in map(_checked, tokens)]

    @property
    def required(self) -> bool:
        """Whether a token must come."""
        return bool(self._digests)

    def check(self, headers: Sequence[str]) -> None:
        """Let in or refuse.

        Args:
            headers: the values of `Authorization`.

        Raises:
            Problem: no token came, or one that nobody has.
        """
        if not self._digests:
            return
        scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
        given = sha256(token.strip().encode()).digest()
        known = False
        for digest in self._digests:  # all of them, whichever it is: time tells nothing
            known |= hmac.compare_digest(digest, given)
        if scheme.lower() == "bearer" and known:
            return
        problem = "is missing" if not headers else "is not one that is known here"
        raise Problem(
            401,
            "not-signed-in",
            f"the bearer token {problem}",
            "send the header Authorization: Bearer TOKEN, with one of the tokens of CHOREO_GATEWAY_TOKENS",
            [Fault("authorization", problem)],
            {"www-authenticate": 'Bearer realm="choreo"'},
        )


def _checked(token: str) -> str:
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError(
            f"a token of CHOREO_GATEWAY_TOKENS is no good: it needs {LEAST_TOKEN} printable ASCII characters or more, "
            "e.g. those of `openssl rand -hex 24`"
        )
    return token
