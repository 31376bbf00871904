"""A grid over any keys of a scenario: each combination of values with each seed is a cell."""

from __future__ import annotations

import tomllib
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import Any

from p2pstream.errors import BadConfig
from simulations import tiers
from simulations.cells import Cell, Row
from simulations.reading import make, nearest
from simulations.runner import figure_names, interval

CELLS_MAX = 10_000

Point = dict[str, Any]
"""One combination: the value of each key."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One key, as `groups.homes.n`, `faults.0.share` or `stream.chunk_ms`, and its values."""

    key: str
    values: list[Any]


def axis_of(text: str) -> Axis:
    """`KEY=VALUE,VALUE,...`, values as TOML has them; words need no quotes. Raises `BadConfig`."""
    key, equals, listed = text.partition("=")
    if not (key.strip() and equals and listed.strip()):
        raise BadConfig(f"{text!r} is no key with values", hint="Say groups.homes.n=10,20,40.")
    try:
        values = tomllib.loads(f"values = [{listed}]")["values"]
    except tomllib.TOMLDecodeError:
        values = [word.strip() for word in listed.split(",")]
    return Axis(key.strip(), values)


def points_of(axes: list[Axis]) -> list[Point]:
    """All combinations, the last key fastest."""
    keys = [axis.key for axis in axes]
    return [dict(zip(keys, each, strict=True)) for each in product(*(a.values for a in axes))]


def cells_of(
    values: dict[str, Any], where: str, axes: list[Axis], seeds: list[int], tier: str = "core"
) -> list[Cell]:
    """All cells: the seeds of the first point, then those of the next. Each is a scenario that
    makes sense and that `tier` can do. Raises `BadConfig`.
    """
    points = points_of(axes)
    if not 1 <= len(points) * len(seeds) <= CELLS_MAX:
        raise BadConfig(f"{len(points) * len(seeds)} cells", hint=f"At most {CELLS_MAX}.")
    cells = []
    for point in points:
        changed = deepcopy(values)
        for key, value in point.items():
            put(changed, key, value)
        told = ", ".join(f"{key} = {value}" for key, value in point.items())
        tiers.check(tier, make(changed, f"{where} with {told}"))
        cells += [Cell(changed, where, seed, tier) for seed in seeds]
    return cells


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set one key of a scenario. Raises `BadConfig` when the way to it is not there."""
    *way, last = key.split(".")
    here: Any = values
    for nth, name in enumerate(way):
        here = _inner(here, name, ".".join(way[: nth + 1]))
    if not isinstance(here, dict):
        raise BadConfig(f"{key}: there is no table to hold {last!r}", hint="Name one of its keys.")
    here[last] = value


def _inner(here: Any, name: str, path: str) -> Any:
    if isinstance(here, dict):
        return here.setdefault(name, {})
    names = {one.get("name", str(nth)): one for nth, one in enumerate(here)} \
        if isinstance(here, list) else {}  # fmt: skip
    if name not in names:
        raise BadConfig(f"there is no {path}", hint=nearest(name, names))
    return names[name]


def summary_of(points: list[Point], rows: list[Row]) -> list[dict[str, Any]]:
    """For each point the mean of every figure over its seeds, with a 95 % interval."""
    each = len(rows) // len(points)
    return [
        {
            "point": point,
            "seeds": [row["seed"] for row in some],
            "passed": all(row["passed"] for row in some),
            "figures": {name: interval([row[name] for row in some]) for name in names},
        }
        for nth, point in enumerate(points)
        if (some := rows[nth * each : (nth + 1) * each]) and (names := figure_names(some[0]))
    ]
