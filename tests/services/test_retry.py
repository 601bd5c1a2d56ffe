"""Retry decides; it never sleeps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.events.clock import SECOND
from choreo.events.errors import DecodeError, DefinitionError, Permanent
from choreo.services.retry import Again, GiveUp, Retry


def test_pauses_double_up_to_the_longest():
    retry = Retry(attempts=10, first="1s", most="5s")
    assert [retry.pause(n, 0.0) // SECOND for n in range(1, 6)] == [1, 2, 4, 5, 5]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_jitter_shortens_a_pause_by_half_at_most(attempt, randomness):
    retry = Retry(first="200ms", most="30s")
    full = retry.pause(attempt, 0.0)
    assert full // 2 <= retry.pause(attempt, randomness) <= full <= 30 * SECOND


def test_attempts_count_the_first_try():
    retry = Retry(attempts=2, first="1s", most="1s")
    assert retry.after(ValueError(), 1, 0.0) == Again(SECOND)
    assert retry.after(ValueError(), 2, 0.0) == GiveUp("exhausted")


@pytest.mark.parametrize("error", [Permanent("no"), DecodeError("bytes")])
def test_a_permanent_error_is_never_retried(error):
    assert Retry(attempts=5).after(error, 1, 0.0) == GiveUp("permanent")


@pytest.mark.parametrize(
    ("retry", "tried_again"),
    [
        (Retry(on=OSError), [ConnectionError(), TimeoutError()]),
        (Retry(on=(OSError, ValueError), not_on=ConnectionError), [TimeoutError(), ValueError()]),
        (Retry(not_on=(OSError, KeyError)), [ValueError()]),
    ],
)
def test_only_the_errors_that_it_names_are_tried_again(retry, tried_again):
    for error in (ConnectionError(), TimeoutError(), ValueError(), KeyError(), Permanent("no")):
        again = any(type(error) is type(each) for each in tried_again)
        assert isinstance(retry.after(error, 1, 0.0), Again) == again, error
        if not again:
            assert retry.after(error, 1, 0.0) == GiveUp("permanent")


def test_no_try_begins_after_its_limit():
    retry = Retry(attempts=100, first="1s", most="1s", within="10s", jitter=0)
    assert retry.after(ValueError(), 3, 0.9, 9 * SECOND) == Again(SECOND)
    assert retry.after(ValueError(), 3, 0.9, 9 * SECOND + 1) == GiveUp("exhausted")


@pytest.mark.parametrize(
    "arguments",
    [
        {"attempts": 0},
        {"attempts": True},
        {"first": "soon"},
        {"first": "2s", "most": "1s"},
        {"most": 0},
        {"jitter": 2},
        {"within": "never"},
        {"on": "OSError"},
        {"on": ()},
        {"not_on": (OSError, 3)},
        {"on": KeyboardInterrupt},
    ],
)
def test_a_strategy_that_cannot_work_is_refused_where_it_is_written(arguments):
    with pytest.raises(DefinitionError):
        Retry(**arguments)
