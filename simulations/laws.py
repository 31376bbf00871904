"""Draws from the laws of a scenario: rates, sessions, arrivals, round-trip times.

Each draw has a die of its own, named by host and purpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import acos, cos, exp, log, pi, radians, sin
from random import Random

from simulations import measured
from simulations.fabric.dice import bell, throw
from simulations.scenario import (
    Arrivals,
    Choice,
    Cold,
    Distance,
    Flash,
    Group,
    Lognormal,
    Matrix,
    Rate,
    Rtt,
    Sample,
    Session,
    Steady,
    Trace,
    Uniform,
    Weibull,
    Zap,
)

EARTH_KM = 6371.0
NEAR_MS, MS_PER_KM = 30.9, 0.01745  # facts/simulation.md 6: 59,244 pairs of cities, 2018.
RTT_MS_MIN = 1.0
_Law = Uniform | Lognormal | Choice | Weibull | Sample | Trace


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
        case Sample() | Trace():
            return _measured(law, share)


def _measured(law: Sample | Trace, share: float) -> float:
    """Of a trace: its mean."""
    if isinstance(law, Sample):
        values = measured.sample(law.file)
        return law.scale * values[int(share * len(values))]
    steps = trace_of(law, share)
    return sum(s * kbps for s, kbps in steps) / sum(s for s, _ in steps)


def trace_of(law: Trace, share: float) -> measured.Trace:
    """The trace of a host, in kbit/s."""
    found = measured.traces_like(law.file, law.like)
    return tuple((s, law.scale * kbps) for s, kbps in found[int(share * len(found))])


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
        case Steady():  # Each in an interval of its own, or the last of many come ever more rarely.
            return [
                law.at_s + (nth + rng.random() - 0.5 if nth else 0.0) * law.apart_s
                for nth in range(count)
            ]
        case Flash() | Zap():
            return sorted(law.at_s + law.over_s * rng.random() for _ in range(count))
        case _:
            return [law.at_s + law.over_s * nth / count for nth in range(count)]


def stays_s(group: Group, seed: int, name: str, life: int) -> float | None:
    """How long a host stays that has come for the `life`-th time; None: to the end."""
    match group.arrive:
        case Zap(look_s=look_s, stays=stays):
            if throw(seed, name, "stays", life) < stays:
                return None
            return -look_s * log(1 - throw(seed, name, "session", life))
    if group.session_s is None:
        return None
    return draw(group.session_s, throw(seed, name, "session", life))


def away_s(group: Group, seed: int, name: str, life: int) -> float | None:
    """How long it stays away then; None: for good."""
    match group.arrive:
        case Zap(away_s=mean_s):
            return -mean_s * log(1 - throw(seed, name, "away", life))
    return group.returns_after_s


@dataclass(frozen=True, slots=True)
class Place:
    """On a globe, in degrees. site: among those of a matrix, as a share of their number."""

    latitude: float
    longitude: float
    site: float = 0.0


def place(law: Rtt, seed: int, name: str) -> Place:
    """Where a host lives: uniformly within a circle."""
    radius_km = law.radius_km if isinstance(law, Distance) else 0.0
    far = radius_km / EARTH_KM * 180 / pi * throw(seed, name, "far") ** 0.5
    way = 2 * pi * throw(seed, name, "way")
    latitude = max(-89.0, min(89.0, 45 + far * cos(way)))
    return Place(latitude, far * sin(way) / 0.7, throw(seed, name, "site"))


def rtt_s(law: Rtt, share: float, here: Place, there: Place) -> float:
    """A round-trip time. share: the pair's throw."""
    if isinstance(law, Distance):
        ms = (NEAR_MS + MS_PER_KM * _km(here, there)) * exp(law.sigma * bell(share))
    elif isinstance(law, Matrix):
        rows = measured.matrix(law.file)
        a, b = (int(each.site * len(rows)) for each in (here, there))
        ms = (rows[a][b] + rows[b][a]) / 2 * (1000 if law.unit == "s" else 1)
    else:
        ms = draw(law, share)
    return max(RTT_MS_MIN, ms) / 1000


def _km(a: Place, b: Place) -> float:
    """Along the great circle."""
    la, lb = radians(a.latitude), radians(b.latitude)
    cosine = sin(la) * sin(lb) + cos(la) * cos(lb) * cos(radians(a.longitude - b.longitude))
    return EARTH_KM * acos(max(-1.0, min(1.0, cosine)))
