"""The hosts of a scenario as arrays: who comes when, how far they are, what they can send."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pstream.stream.chunk import PIECE_BYTES
from p2pstream.swarm.giver import OVERLOAD_S
from p2pstream.swarm.mesh import PULL_COPIES
from p2pstream.swarm.messages import SUBSTREAMS
from simulations import laws, measured
from simulations.fabric.carrier import PACKET_OVERHEAD, PACKET_PAYLOAD
from simulations.fabric.dice import die, secret
from simulations.population import COPIES, ROLES
from simulations.scenario import (
    Choice,
    Distance,
    Group,
    Kill,
    Lognormal,
    MassLeave,
    Matrix,
    Sample,
    Scenario,
    Trace,
    Uniform,
    Weibull,
    Zap,
)

UNKNOWN = (
    "jitter_ms", "duplicates", "nat", "clock_skew_s", "clock_drift_ppm", "returns_after_s",
)  # fmt: skip
"""Keys of a group that must be as they are by default."""
Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]


@dataclass(slots=True)
class Homes:
    """All hosts, by number: the origin is 0. Times in seconds, rates in bytes a second.

    group: number of the group. leaves_at: end of the session. slots: children at once, of all
    substreams. place: unit vectors on the globe.
    """

    group: Ints
    viewer: Bools
    comes_at: Floats
    leaves_at: Floats
    up: Floats
    slots: Ints
    loss: Floats
    place: NDArray[np.float32]
    rtt_law: list[Any]

    def __len__(self) -> int:
        return len(self.group)


def generator(seed: int, *path: object) -> np.random.Generator:
    """Dice of its own, from the seed tree."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(secret(seed, *path)[:16])))


def populate(scenario: Scenario, seed: int) -> Homes:
    """Origin first, then seeds, then viewers as the scenario has them."""
    groups = sorted(enumerate(scenario.groups), key=lambda item: ROLES[item[1].role])
    parts = [_group(number, group, seed) for number, group in groups]
    joined: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    joined.append([group.rtt_ms for group in scenario.groups])
    homes = Homes(*joined)
    homes.slots = np.minimum(homes.slots, _carried(homes.up, bytes_per_s(scenario)))
    return homes


def bytes_per_s(scenario: Scenario) -> float:
    """What one copy of the stream needs of an uplink, headers included."""
    return 125 * scenario.stream.bitrates_kbps[0] * (1 + PACKET_OVERHEAD / PACKET_PAYLOAD)


def _carried(up: Floats, needed: float) -> Ints:
    """Children that an uplink carries. A host with more has queues beyond `OVERLOAD_S`, the mean
    wait (M/D/1) of this load, and sends some away (`Giver`); the origin never does.
    """
    pieces = 2 * OVERLOAD_S * up / PIECE_BYTES
    load = pieces / (1 + pieces)
    most = np.maximum(1, SUBSTREAMS * load * up / needed).astype(np.int32)
    most[0] = np.iinfo(np.int32).max
    return most


def _group(number: int, group: Group, seed: int) -> tuple[Any, ...]:
    rng, n = generator(seed, "model", group.name), group.n
    role = ROLES[group.role]
    copies = COPIES[role] if group.copies is None else group.copies
    copies = 0.0 if group.behaviour == "free_rider" else copies
    pushed = max(1.0, copies - PULL_COPIES) if copies else 0.0
    comes = np.array(laws.arrivals(group.arrive, n, die(seed, group.name, "arrivals")))
    stays = draw(group.session_s, rng, n) if group.session_s is not None else np.full(n, inf)
    return (
        np.full(n, number, np.int32),
        np.full(n, group.role == "viewer"),
        comes,
        comes + stays,
        draw(group.up_kbps, rng, n) * 125,
        np.full(n, round(pushed * SUBSTREAMS), np.int32),
        np.full(n, group.loss),
        _places(group, rng, n),
    )


def draw(law: Any, rng: np.random.Generator, n: int) -> Floats:
    """`n` values of a law, as `laws.draw` has them."""
    match law:
        case Uniform():
            return rng.uniform(law.low, law.high, n)
        case Lognormal():
            return law.median * np.exp(law.sigma * rng.standard_normal(n))
        case Weibull():
            return law.scale * rng.weibull(law.shape, n)
        case Choice():
            weights = np.array(law.weights or [1.0] * len(law.values))
            return rng.choice(np.array(law.values), n, p=weights / weights.sum())
        case Sample():
            return law.scale * rng.choice(np.array(measured.sample(law.file)), n)
        case _:
            return np.full(n, float(law))


def _places(group: Group, rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """Uniformly within a circle, as `laws.place`."""
    radius_km = group.rtt_ms.radius_km if isinstance(group.rtt_ms, Distance) else 0.0
    far = radius_km / laws.EARTH_KM * 180 / np.pi * np.sqrt(rng.random(n))
    way = 2 * np.pi * rng.random(n)
    latitude = np.radians(np.clip(45 + far * np.cos(way), -89, 89))
    longitude = np.radians(far * np.sin(way) / 0.7)
    flat = np.cos(latitude)
    unit = (flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude))
    return np.stack(unit, axis=1).astype(np.float32)


def rtt_s(homes: Homes, a: Ints, b: Ints, rng: np.random.Generator) -> Floats:
    """Round-trip times between hosts `a` and `b`: the mean of what the laws of both say."""
    return (_one_rtt_s(homes, a, a, b, rng) + _one_rtt_s(homes, b, a, b, rng)) / 2


def _one_rtt_s(homes: Homes, by: Ints, a: Ints, b: Ints, rng: np.random.Generator) -> Floats:
    out = np.empty(len(by))
    for number, law in enumerate(homes.rtt_law):
        mask = homes.group[by] == number
        count = int(mask.sum())
        if not count:
            continue
        if isinstance(law, Distance):
            cosine = np.einsum("ij,ij->i", homes.place[a[mask]], homes.place[b[mask]])
            km = laws.EARTH_KM * np.arccos(np.clip(cosine, -1, 1))
            noise = np.exp(law.sigma * rng.standard_normal(count))
            out[mask] = (laws.NEAR_MS + laws.MS_PER_KM * km) * noise
        else:
            out[mask] = draw(law, rng, count)
    return np.maximum(laws.RTT_MS_MIN, out) / 1000


def lacking(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """(key, why) of what this tier cannot do."""
    if len(scenario.stream.bitrates_kbps) > 1:
        yield "stream.bitrates_kbps", "one rendition only"
    for nth, group in enumerate(scenario.groups):
        for key, why in _lacking_of(group):
            yield f"groups[{nth}].{key}", why
    for nth, fault in enumerate(scenario.faults):
        if not isinstance(fault, (Kill, MassLeave)) or getattr(fault, "restart_after_s", None):
            yield f"faults[{nth}].kind", "only kill (without restart) and mass_leave"


def _lacking_of(group: Group) -> Iterator[tuple[str, str]]:
    plain = Group(name="plain")
    for key in UNKNOWN:
        if getattr(group, key) != getattr(plain, key):
            yield key, "the model has no such thing"
    if group.loss_burst > 1:
        yield "loss_burst", "packets are lost one by one"
    if group.behaviour not in {"honest", "free_rider"}:
        yield "behaviour", "the model has no liars"
    for key, law in ("up_kbps", Trace), ("down_kbps", Trace), ("rtt_ms", Matrix), ("arrive", Zap):
        if isinstance(getattr(group, key), law):
            yield key, f"the model has no law {law.__name__.lower()}"
