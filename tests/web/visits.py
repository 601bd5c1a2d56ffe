"""How a test visits the web view in this process: who asks, and what a form of ours carries."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx

from tests.web.served import TOKENS

ORIGIN = {"origin": "http://127.0.0.1"}
SAID = ",".join(f"{role}:{role}-ann={token}" for role, token in TOKENS.items())
Client = Callable[..., Any]


def stamp_in(page: httpx.Response) -> str:
    """Find what marks the forms of a page as ours."""
    found = re.search(r'name="stamp" value="([0-9a-f]{64})"', page.text)
    assert found is not None, page.text
    return found[1]


def forms_in(page: httpx.Response) -> set[str]:
    """List the forms that a page offers, by what they do."""
    return set(re.findall(r'<details class="act" id="act-([^"]+)"', page.text))
