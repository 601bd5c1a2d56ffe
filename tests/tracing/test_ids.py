"""The derivation of trace and span ids is a public contract: these vectors never change."""

from __future__ import annotations

import re
from hashlib import blake2b
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.tracing import ids
from choreo.tracing.ids import name_with_run, saga_name, span_id, trace_id

TRACES = [
    ("", "ord-1", 0, "0682431f5f3ef22e380287f639713bea"),
    ("", "fulfilment/4711", 0, "4f63c243ad9b58561e6ca4ee1414a4a3"),
    ("", "fulfilment/4711~2", 0, "a494fde0a7a3612c9eddfd8021a385fd"),
    ("", "fulfilment/4711", 1, "7cc58c6e9b4238de766f6b85cf147f98"),
    ("staging", "fulfilment/4711", 0, "d2e69f7e194e9c5a4b17bed97b3ef150"),
    ("a", "b/c", 0, "16f66c88d4ff36db343d3ba184974f78"),
    ("ab", "/c", 0, "2e448c7d599af6b6a353d9b552aa8f91"),
    ("", "bestellung/K%C3%B6ln-1", 0, "67de450624b36191c2f03847e571047b"),
]

SPANS = [
    ("", "ord-1", ("root",), "0b1a7a68a6b85b32"),
    ("", "ord-1", ("started",), "3b1f5aba63c37026"),
    ("", "ord-1", ("anchor",), "d01984ccd02671ed"),
    ("", "ord-1", ("step", "charge", ""), "a3c110ae6e278bdb"),
    ("", "ord-1", ("comp", "charge", ""), "d29175ab46f59321"),
    ("", "ord-1", ("step", "charge", "b-1"), "fb55183481812ab7"),
    ("staging", "fulfilment/4711", ("root",), "7046a982864657fc"),
    ("", "fulfilment/4711", ("step", "reserve", ""), "12c2a2d4e33d35c9"),
]


@pytest.mark.parametrize(("namespace", "saga_id", "epoch", "expected"), TRACES)
def test_trace_ids_are_frozen(namespace: str, saga_id: str, epoch: int, expected: str) -> None:
    assert f"{trace_id(namespace, saga_id, epoch):032x}" == expected


@pytest.mark.parametrize(("namespace", "saga_id", "path", "expected"), SPANS)
def test_span_ids_are_frozen(namespace: str, saga_id: str, path: tuple[str, ...], expected: str) -> None:
    assert f"{span_id(namespace, saga_id, *path):016x}" == expected


def test_a_view_is_frozen_and_another_trace_than_any_epoch() -> None:
    assert f"{trace_id('', 'fulfilment/4711', 0, 'again/7'):032x}" == "e15c0f5717dd9ca8df547d01c7d5a929"
    assert trace_id("", "x", 1, "again/7") != trace_id("", "x", 0, "again/7") != trace_id("", "x", 0, "again/8")


def test_the_documented_bytes_give_the_same_ids() -> None:
    """The example of docs/tracing.md, spelled out byte by byte."""
    data = b"\x00\x00\x00\x05trace" + b"\x00\x00\x00\x00" + b"\x00\x00\x00\x0ffulfilment/4711"
    person = b"saga-trace/v1\x00\x00\x00"
    digest = blake2b(data, digest_size=16, person=person).hexdigest()
    assert digest == f"{trace_id('', 'fulfilment/4711'):032x}"
    epoch = blake2b(data + b"\x00\x00\x00\x011", digest_size=16, person=person).hexdigest()
    assert epoch == f"{trace_id('', 'fulfilment/4711', 1):032x}"
    step = (
        b"\x00\x00\x00\x04span" + b"\x00\x00\x00\x00" + b"\x00\x00\x00\x0ffulfilment/4711"
        b"\x00\x00\x00\x04step" + b"\x00\x00\x00\x07reserve" + b"\x00\x00\x00\x00"
    )
    assert blake2b(step, digest_size=8, person=person).hexdigest() == "12c2a2d4e33d35c9"


def test_an_all_zero_id_becomes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zero:
        def copy(self) -> Zero:
            return self

        def update(self, data: bytes) -> None: ...

        def digest(self) -> bytes:
            return bytes(16)

    monkeypatch.setattr(ids, "_DIGESTS", {8: Zero(), 16: Zero()})
    assert trace_id("", "x/1") == 1
    assert span_id("", "x/1", "root") == 1


text = st.text(max_size=12)


@given(text, text, text, text)
def test_parts_never_run_into_each_other(a: str, b: str, c: str, d: str) -> None:
    assert (trace_id(a, b) == trace_id(c, d)) == ((a, b) == (c, d))
    assert (span_id("", "x/1", a, b) == span_id("", "x/1", c, d)) == ((a, b) == (c, d))


@pytest.mark.parametrize(
    ("key", "run", "name"),
    [
        ("4711", 1, "fulfilment/4711"),
        ("4711", 2, "fulfilment/4711~2"),
        ("a.b_c-d", 1, "fulfilment/a.b_c-d"),
        ("a~2", 1, "fulfilment/a%7E2"),
        ("Köln 1/2", 1, "fulfilment/K%C3%B6ln%201%2F2"),
        ("٣", 1, "fulfilment/%D9%A3"),
    ],
)
def test_a_name_is_percent_encoded_and_carries_the_run(key: str, run: int, name: str) -> None:
    assert saga_name("fulfilment", key, run) == name


@given(st.text(min_size=1), st.text(min_size=1), st.integers(1, 3), st.integers(1, 3))
def test_different_keys_and_runs_have_different_names(a: str, b: str, m: int, n: int) -> None:
    a, b = (each.encode("utf-8", "replace").decode() for each in (a, b))
    assert (saga_name("x", a, m) == saga_name("x", b, n)) == ((a, m) == (b, n))


def test_the_first_run_adds_nothing() -> None:
    assert name_with_run("x/1", None) == name_with_run("x/1", 1) == name_with_run("x/1", 0) == "x/1"


def test_the_documentation_states_the_frozen_vectors() -> None:
    text = (Path(__file__).parents[2] / "docs" / "tracing.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([0-9a-f]{32}|[0-9a-f]{16})` \|", text))
    assert documented <= {vector for *_, vector in (*TRACES, *SPANS)}
    assert len(documented) == 14
