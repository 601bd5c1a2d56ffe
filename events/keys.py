"""Keys that encrypt what events hold: several may decrypt, the first one encrypts.

AES-256-GCM by the `cryptography` library; the wire form stands in `docs/wire.md`. What is encrypted is bound to its
event's type, its event's id and its place in the event, so that nobody can move it to where it means something else.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from .errors import ConfigurationError, DecodeError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from .settings import Settings

KEY_BYTES = 32
_VERSION = 1
_NONCE = 12
_TAG = 16
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_URL_SAFE = str.maketrans("-_", "+/")
_MAKE = "make one with `openssl rand -base64 32`"


class Keys:
    """Encrypts with its first key and decrypts with each.

    Args:
        keys: 32 bytes each, by the id that travels with what they have encrypted; the first one encrypts.

    Raises:
        ConfigurationError: an id or a key is malformed.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = {id_: _checked(id_, key) for id_, key in keys.items()}
        self._current = next(iter(keys), None)
        self._ciphers: dict[str, AESGCM] = {}

    def __repr__(self) -> str:
        return f"Keys({', '.join(self._keys)})"

    def __bool__(self) -> bool:
        return self._current is not None

    def check(self, type_: str) -> None:
        """Make sure that events of a type can be encrypted.

        Raises:
            ConfigurationError: there is no key, or the `cryptography` library is missing.
        """
        if self._current is None:
            raise ConfigurationError(f"{type_} is encrypted and there is no key: set CHOREO_KEYS=id=base64; {_MAKE}")
        self._cipher(self._current)

    def seal(self, plain: bytes, type_: str, id_: str, path: tuple[str, ...]) -> bytes:
        """Encrypt a value.

        The nonce is derived from the value and where it stands (96 bits of HMAC-SHA-256): what is published twice under
        one id has the same bytes, as readers of copies expect, and other values have other nonces.

        Args:
            plain: the value's bytes.
            type_, id_: of the event.
            path: names, numbers of list items and keys of maps that lead to the value.

        Raises:
            ConfigurationError: there is no key.
        """
        self.check(type_)
        assert self._current is not None
        cipher, key = self._cipher(self._current), self._keys[self._current]
        bound = bound_to(type_, id_, path)
        nonce = hmac.digest(hmac.digest(key, b"choreo-nonce/v1", "sha256"), bound + plain, "sha256")[:_NONCE]
        name = self._current.encode()
        return bytes((_VERSION, len(name))) + name + nonce + cipher.encrypt(nonce, plain, bound)

    def open(self, sealed: bytes, type_: str, id_: str, path: tuple[str, ...]) -> bytes:
        """Decrypt what `seal` has made, anywhere, for the same place of the same event.

        Raises:
            DecodeError: the key is not known here, or the bytes are not what was encrypted for this place.
        """
        where = f"{type_}{''.join(f'.{part}' for part in path if not part.isdigit())}"
        begin = 2 + (sealed[1] if len(sealed) > 1 else 0)
        if len(sealed) < begin + _NONCE + _TAG or sealed[0] != _VERSION:
            raise DecodeError(f"{where} is not encrypted in a form that is known here (version {_VERSION})")
        name = sealed[2:begin].decode("ascii", "replace")
        if name not in self._keys:
            # A name that is none may be anything, so it is not told.
            told = f"with key {name!r}" if _ID.fullmatch(name) else "with a key without a proper id"
            raise DecodeError(
                f"{where} is encrypted {told}, and the keys here are {', '.join(self._keys) or 'none'}: add it to "
                "CHOREO_KEYS"
            )
        from cryptography.exceptions import InvalidTag

        nonce, body = sealed[begin : begin + _NONCE], sealed[begin + _NONCE :]
        try:
            return self._cipher(name).decrypt(nonce, body, bound_to(type_, id_, path))
        except InvalidTag:
            raise DecodeError(
                f"{where} does not decrypt with key {name!r}: it was changed, or encrypted for another event or field, "
                "or the key is another one of that name"
            ) from None

    def _cipher(self, id_: str) -> AESGCM:
        found = self._ciphers.get(id_)
        if found is None:
            found = self._ciphers[id_] = _library()(self._keys[id_])
        return found


def bound_to(type_: str, id_: str, path: tuple[str, ...]) -> bytes:
    """Give the associated data: each part as its length in 4 bytes big-endian and its UTF-8 bytes."""
    parts = [part.encode() for part in ("choreo-sealed/v1", type_, id_, *path)]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def read_keys(text: SecretStr) -> dict[str, bytes]:
    """Read `id=base64,id=base64` of `CHOREO_KEYS`.

    Raises:
        ConfigurationError: naming the entry by its number or id; never with what may be a key.
    """
    found: dict[str, bytes] = {}
    for number, entry in enumerate(filter(None, (part.strip() for part in text.get_secret_value().split(","))), 1):
        id_, equals, encoded = entry.partition("=")
        if not equals or not _ID.fullmatch(id_):
            raise ConfigurationError(f"setting CHOREO_KEYS: entry {number} is not id=base64; {_MAKE}")
        if id_ in found:
            raise ConfigurationError(f"setting CHOREO_KEYS: two keys are called {id_!r}; give each an id of its own")
        try:
            found[id_] = base64.b64decode(encoded.strip().translate(_URL_SAFE), validate=True)
        except (binascii.Error, ValueError):
            raise ConfigurationError(f"setting CHOREO_KEYS: key {id_!r} is not base64; {_MAKE}") from None
    return found


def open_keys(settings: Settings) -> Keys:
    """Make the keys of the settings: `CHOREO_KEYS`, or what the function of `CHOREO_KEY_PROVIDER` gives.

    Raises:
        ConfigurationError: they are malformed, or the function cannot be called; never with what may be a key.
    """
    provider = settings.key_provider
    if provider and settings.keys.get_secret_value():
        raise ConfigurationError("CHOREO_KEYS and CHOREO_KEY_PROVIDER are both set; leave one of them out")
    keys = Keys(_provided(provider) if provider else read_keys(settings.keys))
    if keys:
        keys.check("an event")  # a library that is missing is told here, not with the first event
    return keys


def _provided(provider: str) -> Mapping[str, bytes]:
    module, colon, name = provider.partition(":")
    if not colon:
        raise ConfigurationError(f"setting CHOREO_KEY_PROVIDER: {provider!r} is not module:function")
    try:
        found: Any = getattr(import_module(module), name)()
    except Exception as error:
        raise ConfigurationError(f"setting CHOREO_KEY_PROVIDER: {provider} raised {type(error).__name__}") from error
    if not isinstance(found, Mapping):
        raise ConfigurationError(f"setting CHOREO_KEY_PROVIDER: {provider} gave no mapping of key ids to 32 bytes each")
    return {str(id_): key.get_secret_value() if hasattr(key, "get_secret_value") else key for id_, key in found.items()}


def _checked(id_: str, key: object) -> bytes:
    if not _ID.fullmatch(id_):
        raise ConfigurationError(f"{id_[:70]!r} is no key id; use at most 64 of letters, digits, '.', '_' and '-'")
    if not isinstance(key, (bytes, bytearray)) or len(key) != KEY_BYTES:
        told = f"has {len(key)} bytes" if isinstance(key, (bytes, bytearray)) else f"is {type(key).__name__}"
        raise ConfigurationError(f"key {id_!r} {told}, AES-256 takes {KEY_BYTES} bytes; {_MAKE}")
    return bytes(key)


@cache
def _library() -> type[AESGCM]:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise ConfigurationError(
            "encrypted events need the cryptography library: pip install 'choreo[encryption]'"
        ) from None
    return AESGCM
