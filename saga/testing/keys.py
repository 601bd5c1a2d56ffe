"""The key with which tests encrypt."""

from __future__ import annotations

import base64
from importlib.util import find_spec

from pydantic import SecretStr

_TEST_KEY = f"test={base64.b64encode(bytes(range(32))).decode()}"

TEST_KEYS = SecretStr(_TEST_KEY if find_spec("cryptography") is not None else "")
"""Known to everybody, so that the events of a test may be encrypted without settings; none without the library."""
