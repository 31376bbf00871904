"""Draws from the laws of a scenario: rates, sessions, arrivals, round-trip times.

Each draw has a die of its own, named by host and purpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import acos, cos, exp, log, pi, radians, sin
from random import Random

from simulations.fabric.dice import bell, throw
from simulations.scenario import (
    Arrivals,
    Choice,
    Cold,
    Distance,
    Flash,
    Lognormal,
    Rate,
    Rtt,
    Session,
    Steady,
    Uniform,
    Weibull,
)

EARTH_KM = 6371.0
NEAR_MS, MS_PER_KM = 30.9, 0.01745  # facts/simulation.md 6: 59,244 pairs of cities, 2018.
RTT_MS_MIN = 1.0
_Law = Uniform | Lognormal | Choice | Weibull


def draw(law: Rate | Session, share: float) -> float:
    """The value of `law` below which `share` of all values lie."""
    if not isinstance(law, _Law):
        return float(law)
    match law:
        case Uniform():
            return law.low + share * (law.high - law.low)
        case Lognormal():
            return law.median * exp(law.sigma * bell(share))
        case Weibull():
            return float(law.scale * (-log(1 - min(share, 1 - 1e-12))) ** (1 / law.shape))
        case Choice():
            return _choose(law, share)


def _choose(law: Choice, share: float) -> float:
    weights = law.weights or [1.0] * len(law.values)
    left = share * sum(weights)
    for value, weight in zip(law.values, weights, strict=True):
        left -= weight
        if left < 0:
            return value
    return law.values[-1]


def arrivals(law: Arrivals, count: int, rng: Random) -> list[float]:
    """When each of `count` hosts comes, in seconds."""
    match law:
        case Cold():
            return [law.at_s] * count
        case Steady():
            return [law.at_s + nth * law.apart_s * (0.5 + rng.random()) for nth in range(count)]
        case Flash():
            return sorted(law.at_s + law.over_s * rng.random() for _ in range(count))
        case _:
            return [law.at_s + law.over_s * nth / count for nth in range(count)]


@dataclass(frozen=True, slots=True)
class Place:
    """On a globe, in degrees."""

    latitude: float
    longitude: float


def place(law: Rtt, seed: int, name: str) -> Place:
    """Where a host lives: uniformly within a circle."""
    radius_km = law.radius_km if isinstance(law, Distance) else 0.0
    far = radius_km / EARTH_KM * 180 / pi * throw(seed, name, "far") ** 0.5
    way = 2 * pi * throw(seed, name, "way")
    return Place(max(-89.0, min(89.0, 45 + far * cos(way))), far * sin(way) / 0.7)


def rtt_s(law: Rtt, share: float, here: Place, there: Place) -> float:
    """A round-trip time. share: the pair's throw."""
    if isinstance(law, Distance):
        ms = (NEAR_MS + MS_PER_KM * _km(here, there)) * exp(law.sigma * bell(share))
    else:
        ms = draw(law, share)
    return max(RTT_MS_MIN, ms) / 1000


def _km(a: Place, b: Place) -> float:
    """Along the great circle."""
    la, lb = radians(a.latitude), radians(b.latitude)
    cosine = sin(la) * sin(lb) + cos(la) * cos(lb) * cos(radians(a.longitude - b.longitude))
    return EARTH_KM * acos(max(-1.0, min(1.0, cosine)))
