"""What events said, read without their classes: secrets stay hidden, also where only the history tells of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from choreo import load_settings
from choreo.saga.payloads import Payloads

VALUE = b'{"bill": "1", "pin": "1234", "card": {"number": "5"}}'


@pytest.mark.parametrize(
    ("content_type", "shown"),
    [
        ('application/json; secret-fields=""', {"bill": "1", "pin": "1234", "card": {"number": "5"}}),
        (
            'application/json; secret-fields="pin,card.number"',
            {"bill": "1", "pin": "**********", "card": {"number": "**********"}},
        ),
        ("application/json", None),
    ],
)
async def test_what_the_history_notes_is_hidden_and_what_it_does_not_know_is_not_shown(
    tmp_path: Path, content_type: str, shown: object
) -> None:
    settings = load_settings(home=tmp_path)
    async with Payloads(settings) as payloads:
        found, problem = await payloads.read(VALUE, content_type, "Sold", "1")
    assert found == shown
    assert (problem is None) is (shown is not None)
    async with Payloads(settings, reveal=True) as payloads:
        assert (await payloads.read(VALUE, content_type, "Sold", "1"))[0]["pin"] == "1234"


async def test_what_is_no_json_is_told(tmp_path: Path) -> None:
    async with Payloads(load_settings(home=tmp_path)) as payloads:
        found, problem = await payloads.read(b"[", "application/json", "Sold", "1", ())
        assert found is None
        assert "it cannot be read" in str(problem)
        found, problem = await payloads.read(b"\0\0\0\0\1x", "application/avro", "Sold", "1")
        assert "there is no broker at" in str(problem)
