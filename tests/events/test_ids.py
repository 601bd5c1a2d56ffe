"""Ids: what is derived is the same everywhere and for ever."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from choreo.events.ids import Derived, derived_id


def test_a_derived_id_never_changes() -> None:
    """Stores and topics hold such ids: another one for the same parts would let a duplicate pass."""
    assert derived_id("output", "e1", "stock", "reserve", "0") == "fd02daa7-eb90-8d5b-9ad7-8596ecb4cede"
    assert derived_id() == "09ad2bb2-fb40-8cd7-80c3-449056a38913"


@given(st.lists(st.text(max_size=400) | st.binary(max_size=400)))
def test_a_derived_id_is_a_uuid_of_version_8(parts: list[str | bytes]) -> None:
    found = UUID(derived_id(*parts))
    assert (found.version, found.variant) == (8, "specified in RFC 4122")


def test_parts_are_told_apart() -> None:
    assert len({derived_id("ab", "c"), derived_id("a", "bc"), derived_id("abc")}) == 3


@given(st.lists(st.text()), st.text(max_size=300), st.lists(st.text()))
def test_what_is_hashed_beforehand_gives_the_same_id(before: list[str], part: str, after: list[str]) -> None:
    assert Derived(before, after)(part) == derived_id(*before, part, *after)
