"""Which rendition to watch: a pure verdict from what playout and swarm measured.

Down at once when chunks come late; up only after a quiet time, only when the higher rendition has
holders with upload to spare, and with a growing pause after each ascent that failed. The shape
(emergency, quiet time, probe, cool-down) follows iroh-live's `adaptive.rs`; the veto by holders is
ours (facts/anchors.md M10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

QUIET_S = 10.0  # Wild guess; iroh-live climbs after 4 s, but its peers do not form a mesh.
QUIET_S_MAX = 160.0  # After failed ascents the pause doubles up to this.
FAILED_WITHIN_S = 8.0  # An ascent that stalls this soon has failed (iroh-live's cool-down).
LOW_MARGIN = 0.15  # Share of the target below which chunks come too late for comfort.
HIGH_MARGIN = 0.5


@dataclass(frozen=True, slots=True)
class View:
    """What the verdict depends on. margins: share of the target by which recent chunks were early.

    rung: index of the current rendition, 0 the lowest. rungs: how many there are. stalled: a stall
    since the last look. since_change_s: age of the current choice. holders: how many partners hold
    the next higher rendition and have upload to spare.
    """

    rung: int
    rungs: int
    margins: Sequence[float]
    stalled: bool
    since_change_s: float
    quiet_s: float
    holders: int


@dataclass(frozen=True, slots=True)
class Decision:
    """rung: what to watch. quiet_s: the pause before the next ascent. why: one word."""

    rung: int
    quiet_s: float
    why: str


def evaluate(view: View) -> Decision:
    """The rendition to watch from the next key frame on."""
    low = bool(view.margins) and sorted(view.margins)[len(view.margins) // 2] < LOW_MARGIN
    if (view.stalled or low) and view.rung > 0 and view.since_change_s > 1.0:
        failed = view.since_change_s < FAILED_WITHIN_S
        quiet_s = min(QUIET_S_MAX, view.quiet_s * 2) if failed else view.quiet_s
        return Decision(view.rung - 1, quiet_s, "late")
    if view.rung + 1 < view.rungs and view.since_change_s >= view.quiet_s:
        if not view.margins or min(view.margins) < HIGH_MARGIN:
            return Decision(view.rung, view.quiet_s, "tight")
        if view.holders < 1:
            return Decision(view.rung, view.quiet_s, "no holders")
        return Decision(view.rung + 1, view.quiet_s, "spare")
    return Decision(view.rung, view.quiet_s, "keep")
