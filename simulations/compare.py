"""Two results beside each other: figures against a baseline, and two traces event by event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import hypot
from pathlib import Path
from typing import Any

from p2pstream.errors import BadConfig
from simulations.fabric.trace import Event, words
from simulations.runner import MEASURED_HERE

# Better when larger (+1) or smaller (-1). What is not here is told and not judged.
BETTER = {
    "viewers_playing": 1, "startup_s_p50": -1, "startup_s_p95": -1, "lag_s_p50": -1,
    "lag_s_p95": -1, "lag_s_p99": -1, "stall_ratio": -1, "continuity": 1, "offload": 1,
    "duplicate_ratio": -1, "control_ratio": -1, "repair_s": -1, "never_played": -1,
    "lookup_s_p95": -1, "pieces_refused": -1,
}  # fmt: skip
# A change smaller than this is none, whatever the intervals: (share of the old, in its own unit).
SMALL = {
    "stall_ratio": (0.0, 0.003), "continuity": (0.0, 0.003), "offload": (0.0, 0.01),
    "duplicate_ratio": (0.0, 0.005), "control_ratio": (0.0, 0.02), "viewers_playing": (0.02, 0.5),
    "never_played": (0.0, 0.5), "repair_s": (0.25, 2.0), "pieces_refused": (0.3, 20.0),
    "startup_s_p95": (0.15, 0.5),
}  # fmt: skip
SMALL_OTHERS = (0.10, 0.02)


@dataclass(frozen=True, slots=True)
class Change:
    """One figure then and now. verdict: better, worse, same, or told (not judged)."""

    name: str
    old: float
    new: float
    noise: float
    verdict: str


def load(path: Path) -> dict[str, Any]:
    """A summary that `--save` wrote. Raises `BadConfig`."""
    try:
        summary: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadConfig(
            f"cannot compare with {path}: {error}", hint="Make it with --save."
        ) from None
    if not isinstance(summary.get("figures"), dict):
        raise BadConfig(f"{path} is no summary of a simulation", hint="Make it with --save.")
    return summary


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """All figures of both. A change counts when it is larger than both intervals together."""
    found = []
    for name, was in old["figures"].items():
        now = new["figures"].get(name)
        if now is not None and name not in MEASURED_HERE:
            found.append(_change(name, was, now))
    return found


def _change(name: str, was: dict[str, float], now: dict[str, float]) -> Change:
    old, new = was["mean"], now["mean"]
    share, unit = SMALL.get(name, SMALL_OTHERS)
    noise = max(hypot(was["ci95"], now["ci95"]), share * abs(old) + unit)
    if name not in BETTER:
        verdict = "told"
    elif abs(new - old) <= noise:
        verdict = "same"
    else:
        verdict = "better" if (new > old) == (BETTER[name] > 0) else "worse"
    return Change(name, old, new, round(noise, 5), verdict)


def first_difference(a: Sequence[Event], b: Sequence[Event]) -> tuple[int, str, str] | None:
    """Where two traces part: the number of the event, and what each run did there."""
    for nth, (one, other) in enumerate(zip_longest(a, b)):
        if one != other:
            told = [words(event) if event else "(the run is over)" for event in (one, other)]
            return nth, told[0], told[1]
    return None
