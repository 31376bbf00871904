"""How often a process of ours looks for reference cycles."""

from __future__ import annotations

import gc

# Allocations less frees. Python's 700 are reached once in a few trains of packets, and looking
# costs a relay 7 % of its time (perf); what there is of cycles are connections that ended.
OBJECTS = 10_000


def collect_seldom() -> None:
    """For a process that passes pieces on: it makes many objects and few cycles."""
    gc.freeze()  # What was imported stays.
    gc.set_threshold(OBJECTS, 10, 10)
