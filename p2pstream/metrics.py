"""Counters and gauges. Each component owns a dataclass of them and simply adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0..1) of `values` do not exceed; 0.0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def ratio(part: float, whole: float) -> float:
    """`part / whole`, held within 0..1; 0.0 of nothing."""
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
