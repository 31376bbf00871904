"""The two sums that every report is made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pstream.metrics import percentile, ratio

numbers = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (0.99, 4), (1, 4)]
)
def test_a_percentile_is_one_of_the_values(share: float, expected: float) -> None:
    assert percentile([4, 2, 1, 3], share) == expected


def test_of_nothing_everything_is_nought() -> None:
    assert percentile([], 0.5) == 0.0
    assert ratio(3, 0) == 0.0


@given(st.lists(numbers, min_size=1), st.floats(0, 1))
def test_at_least_that_share_does_not_exceed_the_percentile(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)

    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9


@given(numbers, numbers)
def test_a_ratio_stays_within_0_and_1(part: float, whole: float) -> None:
    assert 0.0 <= ratio(part, whole) <= 1.0


def test_a_ratio_is_a_ratio() -> None:
    assert ratio(1, 4) == 0.25
